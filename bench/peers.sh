#!/usr/bin/env bash
# Unpacks relays that cannot be installed beside Postfix, for bench/measure.py compare: Exim and OpenSMTPD from the
# distribution's packages, Haraka from npm. Nothing of them is started, or reachable outside of the folder; with root,
# the users that Exim and OpenSMTPD run as and the folder /etc/exim4 (over which Exim's is mounted, in a mount
# namespace of its own) are made. One that cannot be had is told of and left out.
# usage: bench/peers.sh [FOLDER]        (default third_party/peers; elsewhere: tell measure.py by RINGPOST_PEERS)
set -uo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:-third_party/peers}")
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
failed=0

say() { printf 'peers: %s\n' "$*"; }
left_out() {
    say "$1 is left out: $2"
    failed=1
}

# user NAME...: system users without a home or shell.
user() {
    local name
    for name in "$@"; do
        getent passwd "$name" >/dev/null || useradd -r -U -d /nonexistent -s /usr/sbin/nologin "$name" || return 1
    done
}

# unpack NAME PACKAGE...: the files of the packages, and not what they depend on, into FOLDER/NAME.
unpack() {
    local name=$1 package temporary
    shift
    [ ! -e "$folder/$name" ] || return 0
    temporary=$(mktemp -d)
    ( cd "$temporary" && apt-get -q -o APT::Sandbox::User=root download "$@" >/dev/null ) ||
        { rm -rf "$temporary"; return 1; }
    mkdir -p "$folder/$name.new"
    for package in "$temporary"/*.deb; do
        dpkg-deb -x "$package" "$folder/$name.new" || return 1
    done
    rm -rf "$temporary"
    mv "$folder/$name.new" "$folder/$name"
    say "$name is in $folder/$name"
}

# What the programs are linked with and the system may lack.
libraries() {
    local program=$1
    ldd "$program" | awk '/not found/ { print $1 }' | tr '\n' ' '
}

get_exim() {
    unpack exim exim4-daemon-light exim4-base || { left_out exim "its packages could not be downloaded"; return; }
    [ "$(id -u)" = 0 ] || { left_out exim "it needs root"; return; }
    user Debian-exim && mkdir -p /etc/exim4 || { left_out exim "no user Debian-exim"; return; }
    [ -z "$(libraries "$folder/exim/usr/sbin/exim4")" ] ||
        left_out exim "missing libraries: $(libraries "$folder/exim/usr/sbin/exim4")"
}

get_opensmtpd() {
    unpack opensmtpd opensmtpd || { left_out opensmtpd "its package could not be downloaded"; return; }
    [ "$(id -u)" = 0 ] || { left_out opensmtpd "it needs root"; return; }
    user opensmtpd opensmtpq || { left_out opensmtpd "no user opensmtpd"; return; }
    [ -z "$(libraries "$folder/opensmtpd/usr/sbin/smtpd")" ] ||
        left_out opensmtpd "missing libraries: $(libraries "$folder/opensmtpd/usr/sbin/smtpd")"
}

# The newest libmime (header decoding, not used on this path) asks for what the registry may lack.
get_haraka() {
    [ ! -x "$folder/haraka/node_modules/.bin/haraka" ] || return 0
    command -v npm >/dev/null || { left_out haraka "npm is not installed"; return; }
    mkdir -p "$folder/haraka"
    echo '{"private":true,"overrides":{"libmime":"5.4.3"}}' >"$folder/haraka/package.json"
    ( cd "$folder/haraka" &&
        npm install --no-audit --omit=optional --no-fund "Haraka@${HARAKA_VERSION:-3.3.4}" >npm.log 2>&1 ) ||
        left_out haraka "$(tail -n 1 "$folder/haraka/npm.log")"
}

mkdir -p "$folder"
chmod 755 "$folder"
get_exim
get_opensmtpd
get_haraka
[ "$failed" = 0 ] || say "the others are there"
