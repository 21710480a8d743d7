#!/usr/bin/env bash
# Builds a static BoringSSL from the distribution's source package into third_party/boringssl, for `make FAST_TLS=1`.
# The packaged shared library is built to be small; without OPENSSL_SMALL its elliptic curves are more than twice as fast.
# Environment: SUITE=name takes that row of packaging/boringssl.pin only; RINGPOST_UNPINNED=1, RINGPOST_MIRROR as in deps.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/private_apt.sh
export LC_ALL=C
package=android-platform-external-boringssl
into=third_party/boringssl
work=$PWD/third_party/.boringssl
jobs=${JOBS:-$(nproc)}

if [ -e "$into/.version" ]; then
    say "BoringSSL $(cut -d ' ' -f 1 "$into/.version") is in $into already (remove that folder to build anew)"
    exit 0
fi

packaging/deps.sh fast-tls

# fetch SUITE VERSION SHA256: the unpacked source is $work/source, or status 1 when the archive has it not.
fetch() {
    local suite=$1 version=$2 sha256=$3 sum
    private_apt_open "$work/apt" deb-src "$suite" || return 1
    rm -rf "$work/download" "$work/source"
    mkdir -p "$work/download"
    if ! ( cd "$work/download" &&
        apt-get "${PRIVATE_APT[@]}" --download-only source "$package${version:+=$version}" >"$work/fetch.log" 2>&1 ); then
        return 1
    fi
    sum=$(sha256sum "$work"/download/*.dsc | cut -d ' ' -f 1)
    if [ -n "$sha256" ] && [ "$sum" != "$sha256" ]; then
        fail "the .dsc of $package $version has SHA-256 $sum, but packaging/boringssl.pin says $sha256: not used"
    fi
    # dpkg-source holds every file against the checksums in the .dsc.
    dpkg-source --no-check -x "$work"/download/*.dsc "$work/source" >"$work/unpack.log" 2>&1 ||
        { cat "$work/unpack.log" >&2; fail "the source package could not be unpacked"; }
}

fetch_any() {
    local id suite version sha256 rows
    rows=$(grep "^$(distribution) " packaging/boringssl.pin || true)
    while read -r id suite version sha256; do
        [ -n "$id" ] || continue
        [ -z "${SUITE:-}" ] || [ "$SUITE" = "$suite" ] || continue
        say "fetching BoringSSL $version (source package, suite $suite)"
        if fetch "$suite" "$version" "$sha256"; then
            echo "$version $sha256" >"$work/version"
            return
        fi
        say "the archive does not have it now"
    done <<<"$rows"
    [ "${RINGPOST_UNPINNED:-0}" = 1 ] || fail "no version that packaging/boringssl.pin names could be fetched;" \
        "RINGPOST_UNPINNED=1 takes what this system's own suite has, checked by the archive's signature alone;" \
        "or give an own build: make BORINGSSL_DIR=/path (include/, lib/libssl.a, lib/libcrypto.a)"
    suite=$( . /etc/os-release; echo "${VERSION_CODENAME:?}" )
    printf 'deps: WARNING: TAKING AN UNPINNED BoringSSL FROM SUITE %s (RINGPOST_UNPINNED=1)\n' "$suite" >&2
    fetch "$suite" "" "" || { cat "$work/fetch.log" >&2; fail "BoringSSL's source could not be fetched"; }
    echo "unpinned-$suite -" >"$work/version"
}

mkdir -p "$work"
fetch_any
case $(dpkg --print-architecture) in
amd64) assembly=linux_x86_64_sources ;;
arm64) assembly=linux_aarch64_sources ;;
*) fail "no source list for $(dpkg --print-architecture)" ;;
esac
cat >"$work/source/static.mk" <<EOF
include debian/sources.mk
SOURCES = \$(crypto_sources) \$($assembly)
CRYPTO = \$(addsuffix .o,\$(basename \$(SOURCES)))
SSL = \$(addsuffix .o,\$(basename \$(ssl_sources)))
FLAGS = -O2 -g1 -fPIC -fvisibility=hidden -fno-strict-aliasing -fstack-protector-strong -pthread -DNDEBUG \\
	-DBORINGSSL_IMPLEMENTATION -Isrc/crypto -Isrc/include -Wa,--noexecstack -w
all: libcrypto.a libssl.a
libcrypto.a: \$(CRYPTO)
	ar rcs \$@ \$^
libssl.a: \$(SSL)
	ar rcs \$@ \$^
%.o: %.c
	\$(CC) -std=gnu11 \$(FLAGS) -c -o \$@ \$<
%.o: %.S
	\$(CC) \$(FLAGS) -c -o \$@ \$<
%.o: %.cc
	\$(CXX) -std=gnu++17 -fno-exceptions -fno-rtti \$(FLAGS) -c -o \$@ \$<
EOF
say "compiling BoringSSL $(cut -d ' ' -f 1 "$work/version") (a minute or two)"
env -u MAKEFLAGS -u MFLAGS make -C "$work/source" -f static.mk -j "$jobs" CC=gcc CXX=g++ >"$work/build.log" 2>&1 ||
    { tail -n 30 "$work/build.log" >&2; fail "BoringSSL did not compile"; }
rm -rf "$into" "$into.new"
mkdir -p "$into.new/lib"
cp -R "$work/source/src/include" "$into.new/include"
cp "$work/source/libssl.a" "$work/source/libcrypto.a" "$into.new/lib/"
cp "$work/source/NOTICE" "$into.new/" 2>/dev/null || true
mv "$work/version" "$into.new/.version"
mv "$into.new" "$into"
rm -rf "$work"
say "BoringSSL is in $into; build with: make FAST_TLS=1"
