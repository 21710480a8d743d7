#!/usr/bin/env bash
# Proves that ringpost builds on a machine with nothing installed: a fresh minimal system in a folder, and make in it.
# usage (root): tests/clean_machine.sh bookworm|trixie [TARGET...]      targets: deps deps-test build; ci is .ci/run
# The system is made once, in CLEAN_MACHINES/SUITE (default /var/tmp/ringpost-machines), and what targets install stays in it;
# CLEAN=1 begins anew. Needs debootstrap. The checkout is copied in as it is, without what builds left in it.
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/private_apt.sh
suite=${1:?usage: tests/clean_machine.sh SUITE [TARGET...]}
shift
[ $# -gt 0 ] || set -- deps deps-test build
[ "$(id -u)" = 0 ] || { echo "clean_machine: needs root" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "clean_machine: needs the package debootstrap" >&2; exit 1; }
root=${CLEAN_MACHINES:-/var/tmp/ringpost-machines}/$suite
mirror=$(mirror_address)
[ -n "$mirror" ] || { echo "clean_machine: this machine's apt knows no archive" >&2; exit 1; }

mounted=()
unmount_all() {
    local i
    for ((i = ${#mounted[@]} - 1; i >= 0; i--)); do
        umount -R "${mounted[i]}" || umount -R -l "${mounted[i]}" || true
    done
    mounted=()
}
trap unmount_all EXIT
bind() {
    mkdir -p "$root/$1"
    mount --rbind "/$1" "$root/$1"
    mount --make-rslave "$root/$1"
    mounted+=("$root/$1")
}

if [ "${CLEAN:-0}" = 1 ] && [ -e "$root" ]; then
    if grep -q " $root/" /proc/mounts; then
        echo "clean_machine: something is mounted below $root; unmount it first" >&2
        exit 1
    fi
    rm -rf --one-file-system "$root"
fi
if [ ! -e "$root/.complete" ]; then
    echo "clean_machine: making $suite in $root"
    mkdir -p "$root"
    debootstrap --variant=minbase --keyring="$(keyring)" --include=ca-certificates,git,make "$suite" "$root" "$mirror" \
        >"$root.log" 2>&1 || { tail -n 20 "$root.log"; exit 1; }
    touch "$root/.complete"
fi
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/hosts "$root/etc/hosts"

rm -rf "$root/ringpost.new"
mkdir -p "$root/ringpost" "$root/ringpost.new"
tar -c --exclude=./build --exclude=./third_party . | tar -x -C "$root/ringpost.new"
# What an earlier call fetched may stay, as it would in a checkout.
[ ! -e "$root/ringpost/third_party" ] || mv "$root/ringpost/third_party" "$root/ringpost.new/third_party"
rm -rf --one-file-system "$root/ringpost"
mv "$root/ringpost.new" "$root/ringpost"

mkdir -p "$root/proc"
mount -t proc proc "$root/proc"
mounted+=("$root/proc")
bind sys
bind dev

inside() {
    chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        LANG=C.UTF-8 TERM=dumb bash -c "cd /ringpost && $1"
}
for target in "$@"; do
    echo "clean_machine: $suite: make $target"
    start=$(date +%s)
    if [ "$target" = ci ]; then
        inside "CI=true bash .ci/run"
    else
        inside "make $target"
    fi
    echo "clean_machine: $suite: make $target took $(($(date +%s) - start)) s"
done
echo "clean_machine: $suite: all done"
