#!/usr/bin/env bash
# Gets what ringpost needs, from the distribution's packages only; installs nothing that is there already.
# usage: deps.sh build | test | coverage | tls-face | fast-tls | bench
# Environment: RINGPOST_UNPINNED=1 accepts a liburing other than packaging/liburing.pin names; RINGPOST_MIRROR=address.
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/private_apt.sh
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
LIBURING_MIN=2.9

installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

# The system's lists may be empty (a fresh image) or old (a version they name is gone): read them once per call, on first need.
lists_read=no
read_lists() {
    [ "$lists_read" = no ] || return 0
    lists_read=yes
    [ "$(id -u)" = 0 ] || return 0
    say "reading the package lists"
    apt-get -q update >/dev/null || fail "apt-get update failed"
}

# Packages start their services when they are installed; a build machine must not. policy-rc.d says no while we install.
POLICY=/usr/sbin/policy-rc.d
forbid_services() {
    [ ! -e "$POLICY" ] || return 0
    trap 'rm -f "$POLICY"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
}

# install PACKAGE...: those that are missing. Never removes a package of the user's.
install() {
    local package missing=()
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        fail "missing packages; as root: apt-get install ${missing[*]}"
    fi
    read_lists
    say "installing ${missing[*]}"
    forbid_services
    apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 --no-remove \
        --no-install-recommends install "${missing[@]}" >"${TMPDIR:-/tmp}/ringpost-apt.$$.log" 2>&1 ||
        { tail -n 30 "${TMPDIR:-/tmp}/ringpost-apt.$$.log" >&2
          rm -f "${TMPDIR:-/tmp}/ringpost-apt.$$.log"
          fail "apt-get could not install ${missing[*]}"; }
    rm -f "${TMPDIR:-/tmp}/ringpost-apt.$$.log"
}

# unpack PACKAGE INTO: the .deb's files without its service, users or dependencies.
unpack() {
    local package=$1 into=$2 folder
    read_lists
    folder=$(mktemp -d)
    say "unpacking $package into $into"
    ( cd "$folder" && apt-get -q -o APT::Sandbox::User=root -o Acquire::Retries=3 download "$package" >/dev/null ) ||
        fail "$package could not be downloaded"
    rm -rf "$into" "$into.new"
    mkdir -p "$into.new"
    dpkg-deb -x "$folder"/*.deb "$into.new"
    rm -rf "$folder"
    mv "$into.new" "$into"
}

version_at_least() { [ -n "$1" ] && [ "$1" != '(none)' ] && dpkg --compare-versions "$1" ge "$2"; }

liburing_of_system() { dpkg-query -W -f '${db:Status-Status} ${Version}\n' liburing-dev 2>/dev/null | sed -n 's/^installed //p'; }
liburing_candidate() { apt-cache policy liburing-dev 2>/dev/null | sed -n 's/^  Candidate: //p'; }

get_liburing() {
    if [ -e third_party/liburing/.version ] || version_at_least "$(liburing_of_system)" "$LIBURING_MIN"; then
        return 0
    fi
    [ -n "$(liburing_candidate)" ] || read_lists
    if version_at_least "$(liburing_candidate)" "$LIBURING_MIN"; then
        install liburing-dev
    else
        fetch_liburing
    fi
}

# Debian 12 and Ubuntu 24.04 have an older liburing. It is linked statically, so the .a and the headers of a later suite do.
fetch_liburing() {
    local id arch pin suite version sha256 apt offered deb sum
    id=$(distribution)
    arch=$(dpkg --print-architecture)
    pin=$(grep "^$id $arch " packaging/liburing.pin || true)
    if [ -n "$pin" ]; then
        read -r id arch suite version sha256 <<<"$pin"
    else
        [ "$id" = ubuntu ] && suite=questing || suite=trixie
        version="" sha256=""
    fi
    say "fetching liburing-dev from suite $suite into third_party/ (the system's own is older than $LIBURING_MIN)"
    apt=$PWD/third_party/.apt/$suite
    mkdir -p "$apt"
    [ -n "$(mirror_address)" ] || read_lists
    private_apt_open "$apt" deb "$suite" || fail "liburing-dev cannot be fetched"
    offered=$(apt-cache "${PRIVATE_APT[@]}" madison liburing-dev | awk -F' *[|] *' '{ print $2 }')
    if [ -z "$version" ] || ! grep -qxF -- "$version" <<<"$offered"; then
        accept_unpinned "$id" "$arch" "$version" "$(head -n 1 <<<"$offered")"
        version=$(head -n 1 <<<"$offered")
        sha256=
    fi
    rm -f "$apt"/liburing-dev_*.deb
    ( cd "$apt" && apt-get "${PRIVATE_APT[@]}" download "liburing-dev=$version" >/dev/null ) ||
        fail "liburing-dev $version could not be downloaded"
    deb=$(echo "$apt"/liburing-dev_*.deb)
    sum=$(sha256sum "$deb" | cut -d ' ' -f 1)
    if [ -n "$sha256" ] && [ "$sum" != "$sha256" ]; then
        fail "liburing-dev $version has SHA-256 $sum, but packaging/liburing.pin says $sha256: not used"
    fi
    rm -rf third_party/liburing third_party/liburing.new
    dpkg-deb -x "$deb" third_party/liburing.new
    find third_party/liburing.new -name '*.so*' -delete
    echo "$version $sum" >third_party/liburing.new/.version
    mv third_party/liburing.new third_party/liburing
    rm -rf "$apt"
    say "liburing $version is in third_party/liburing"
}

accept_unpinned() {
    local id=$1 arch=$2 pinned=$3 offered=$4
    [ -n "$offered" ] || fail "the archive offers no liburing-dev for $id $arch"
    version_at_least "$offered" "$LIBURING_MIN" || fail "the archive offers liburing-dev $offered, older than $LIBURING_MIN"
    if [ -n "$pinned" ]; then
        printf 'deps: warning: liburing-dev %s, named by packaging/liburing.pin, has left the archive (a point release?); it offers %s\n' \
            "$pinned" "$offered" >&2
    else
        printf 'deps: warning: packaging/liburing.pin names no version for %s %s; the archive offers %s\n' \
            "$id" "$arch" "$offered" >&2
    fi
    [ "${RINGPOST_UNPINNED:-0}" = 1 ] || fail "set RINGPOST_UNPINNED=1 to take $offered, checked by the archive's" \
        "signature alone, or give an own build: make LIBURING_DIR=/path (include/ and lib/liburing.a)"
    printf 'deps: WARNING: TAKING AN UNPINNED liburing-dev %s (RINGPOST_UNPINNED=1)\n' "$offered" >&2
}

deps_build() {
    local packages=(gcc libc6-dev make openssl)
    [ -n "${BORINGSSL_DIR:-}" ] || packages+=(android-libboringssl-dev)
    packages+=(libfyaml-dev libseccomp-dev)
    # What needs no root comes even where the rest cannot.
    [ -n "${LIBURING_DIR:-}" ] || [ "$(id -u)" = 0 ] || get_liburing
    install "${packages[@]}"
    [ -n "${LIBURING_DIR:-}" ] || get_liburing
}

clang_runtime() {
    local major
    major=$(apt-cache show clang 2>/dev/null | sed -n 's/^Depends: .*clang-\([0-9]\+\).*/\1/p' | head -n 1)
    [ -n "$major" ] || { read_lists; major=$(apt-cache show clang | sed -n 's/^Depends: .*clang-\([0-9]\+\).*/\1/p' | head -n 1); }
    echo "libclang-rt-$major-dev"
}

promtool_package() {
    apt-cache show promtool >/dev/null 2>&1 && echo promtool || echo prometheus
}

deps_test() {
    local marker=third_party/.clang_runtime runtime
    mkdir -p third_party/bin
    runtime=$(cat "$marker" 2>/dev/null || true)
    if [ -z "$runtime" ] || ! installed "$runtime"; then
        [ -n "$(apt-cache policy clang 2>/dev/null)" ] || read_lists
        runtime=$(clang_runtime)
        echo "$runtime" >"$marker"
    fi
    install libcriterion-dev clang "$runtime" python3 swaks sslscan libnet-ssleay-perl msmtp curl openssl nodejs iproute2 procps e2fsprogs
    if ! installed postfix; then
        [ "$(id -u)" != 0 ] || echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
        ( install postfix ) || say "postfix is not installed: its interoperability tests will be skipped"
    fi
    # promtool comes with a server that nobody here needs, nodemailer with nothing: their files alone will do.
    if [ ! -x third_party/bin/promtool ]; then
        unpack "$(promtool_package)" third_party/prometheus
        cp third_party/prometheus/usr/bin/promtool third_party/bin/promtool
        rm -rf third_party/prometheus
    fi
    if [ ! -e third_party/node/node_modules/nodemailer/package.json ]; then
        unpack node-nodemailer third_party/node
        mkdir -p third_party/node/node_modules
        cp -RL third_party/node/usr/share/nodejs/nodemailer third_party/node/node_modules/nodemailer
        rm -rf third_party/node/usr
    fi
}

# What bench/measure.py compares with and draws with; relays that exclude each other: bench/peers.sh.
deps_bench() {
    install gnuplot-nox haproxy openssl python3
    if ! installed postfix; then
        [ "$(id -u)" != 0 ] || echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
        ( install postfix ) || say "postfix is not installed: it will not be compared with"
    fi
}

case ${1:-} in
build) deps_build ;;
test) deps_test ;;
coverage) install gcovr ;;
tls-face) install testssl.sh sslscan openssl ;;
fast-tls) install gcc g++ make dpkg-dev ;;
bench) deps_bench ;;
*) fail "usage: deps.sh build | test | coverage | tls-face | fast-tls | bench" ;;
esac
