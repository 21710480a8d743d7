#!/usr/bin/env bash
# Runs one command on the kernel of a Debian suite, in a virtual machine: what a chroot cannot tell (tests/clean_machine.sh).
# usage (root): tests/machines/machine.sh SUITE [COMMAND]          make machine SUITE=bookworm COMMAND='make unit'
#   SUITE    bookworm (Linux 6.1), trixie (6.12), bookworm-backports, trixie-backports (newer ones)
#   COMMAND  a line for bash, run by root in a clone of the last commit, /ringpost (what is not committed is left out);
#            without one it says which kernel it is. Its output is shown as it comes, its status is this script's.
# Needs debootstrap, qemu-system-x86, e2fsprogs, git, and the archive for the first run of a suite: the system is made once, with
# the suite's kernel and what packaging/deps.sh build and test install. The machine has no network but its loopback, and forgets
# what was done to it.
# Environment:
#   COMMAND                   in place of the argument
#   PREPARE='make build'      run before in the same system, but here, on this machine's kernel: compiling in emulation is slow
#   MACHINES=build/machines   where systems and disks are (6 GB a suite)
#   RINGPOST_MIRROR=              the archive, in place of the one that this machine's apt uses
#   MEMORY=4G CPUS=2          of the machine
#   QEMU_ARGUMENTS=           more of them, such as '-icount shift=0,sleep=off': time by instructions, whatever else runs here
#   MINUTES=60                when it is ended, finished or not
#   CLEAN=1                   makes the system anew
#   ACCELERATOR=kvm|tcg       else kvm where it boots this kernel, and emulation, which is some ten times slower, where not
set -euo pipefail
cd "$(dirname "$0")/../.."
. packaging/private_apt.sh
say() { printf 'machine: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

suite=${1:?usage: tests/machines/machine.sh SUITE [COMMAND]}
command=${2:-${COMMAND:-uname -sr; nproc; free -m}}
base=${suite%-backports}
mirror=$(mirror_address)
[ -n "$mirror" ] || fail "this machine's apt knows no archive"
folder=$(realpath -m "${MACHINES:-build/machines}/$suite")
root=$folder/root
[ "$(id -u)" = 0 ] || fail "needs root"
for tool in debootstrap qemu-system-x86_64 mke2fs git; do
    command -v "$tool" >/dev/null || fail "needs $tool (packages debootstrap, qemu-system-x86, e2fsprogs, git)"
done
mkdir -p "$folder"
exec 9>"$folder/lock"
flock -n 9 || fail "$folder is in use"

# disk_write FILE FOLDER SIZE: sparse, with what is in the folder.
disk_write() {
    rm -f "$1"
    mke2fs -q -F -t ext4 -d "$2" "$1" "$3" 2>&1 | grep -v '^Creating regular file' || true
    [ -s "$1" ] || fail "no disk was made of $2"
}

# inside LINE: in the system's folder. Mounts are made in a namespace of their own and end with it.
inside() {
    unshare --mount --propagation private bash -euc '
        mount -t proc proc "$0/proc"
        mount --rbind /dev "$0/dev"
        [ ! -d "$3" ] || mount --bind "$3" "$0/ringpost"
        exec chroot "$0" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb \
            DEBIAN_FRONTEND=noninteractive RINGPOST_MIRROR="$2" bash -euc "$1"' "$root" "$1" "$mirror" "$folder/clone"
}

# What the system is made of: when any of it changes, packages are looked at again.
recipe() {
    { echo "$suite $mirror"
      declare -f system_make
      cat tests/machines/init.sh packaging/deps.sh packaging/private_apt.sh packaging/liburing.pin; } | sha256sum
}

system_make() {
    if [ ! -e "$root/.bootstrapped" ]; then
        say "making $base in $root"
        rm -rf --one-file-system "$root"
        debootstrap --variant=minbase --keyring="$(keyring)" --include=ca-certificates,git,iproute2,kmod,make,procps "$base" "$root" "$mirror" \
            >"$folder/debootstrap.log" 2>&1 || { tail -n 20 "$folder/debootstrap.log" >&2; fail "debootstrap failed"; }
        touch "$root/.bootstrapped"
    fi
    rm -f "$root/etc/apt/sources.list"
    for name in "$base" "$base-updates" $([ "$suite" = "$base" ] || echo "$suite"); do
        echo "deb $mirror $name main"
    done >"$root/etc/apt/sources.list"
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    say "installing the kernel of $suite"
    inside "printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
        apt-get -q update; apt-get -q -y --no-install-recommends install -t $suite linux-image-amd64 initramfs-tools zstd
        apt-get -q clean" >"$folder/kernel.log" 2>&1 || { tail -n 20 "$folder/kernel.log" >&2; fail "no kernel"; }
    say "installing what build and tests need"
    mkdir -p "$root/deps"
    git archive HEAD packaging | tar -x -C "$root/deps"
    inside "cd /deps; packaging/deps.sh build; packaging/deps.sh test; apt-get -q clean" >"$folder/deps.log" 2>&1 ||
        { tail -n 20 "$folder/deps.log" >&2; fail "packaging/deps.sh failed"; }
    printf '127.0.0.1 localhost machine\n::1 localhost\n' >"$root/etc/hosts"
    echo machine >"$root/etc/hostname"
    : >"$root/etc/resolv.conf"
    install -m 755 tests/machines/init.sh "$root/init"
    mkdir -p "$root/ringpost" "$folder/clone"
    say "writing the system's disk"
    disk_write "$folder/system.img" "$root" 8G
    recipe >"$folder/recipe"
}

if [ "${CLEAN:-0}" = 1 ]; then
    rm -rf --one-file-system "$root"
    rm -f "$folder/recipe"
fi
[ "$(cat "$folder/recipe" 2>/dev/null)" = "$(recipe)" ] || system_make
kernel=$(find "$root/boot" -name 'vmlinuz-*' | sort -V | tail -n 1)
version=${kernel##*/vmlinuz-}

# The clone keeps what was built in it, here; the machine gets a copy.
clone_make() {
    mkdir -p "$folder/clone"
    [ -e "$folder/clone/.git" ] || git init -q "$folder/clone"
    git bundle create -q "$folder/bundle" HEAD
    git -C "$folder/clone" fetch -q "$folder/bundle" HEAD
    git -C "$folder/clone" checkout -q --force --detach FETCH_HEAD
    rm -f "$folder/bundle"
    [ -e "$folder/clone/third_party" ] || cp -a "$root/deps/third_party" "$folder/clone/third_party"
    inside "cd /ringpost; ${PREPARE:-make build}" >&2
    printf '%s\n' "$command" >"$folder/clone/.git/machine-command"
    disk_write "$folder/clone.img" "$folder/clone" 16G
}

# A kernel that is itself a guest may refuse the register that tells of speculation; nothing here needs it.
processor() { [ "$1" = tcg ] && echo max || echo host,-arch-capabilities; }

# boot ACCELERATOR SECONDS [WORD]: the status is in $folder/status afterwards, if it came so far.
boot() {
    rm -f "$folder/status"
    TMPDIR=$folder timeout --foreground "$2" qemu-system-x86_64 -machine q35 -accel "$1" -cpu "$(processor "$1")" \
        -smp "${CPUS:-2}" -m "${MEMORY:-4G}" -nodefaults -no-user-config -display none -no-reboot \
        -kernel "$kernel" -initrd "$root/boot/initrd.img-$version" \
        -append "console=ttyS0 root=/dev/vda rw init=/init quiet loglevel=3 panic=-1 ${3:-}" \
        -serial stdio -serial "file:$folder/status" -device virtio-rng-pci \
        -drive "file=$folder/system.img,format=raw,if=virtio,snapshot=on" \
        -drive "file=$folder/clone.img,format=raw,if=virtio,snapshot=on" \
        ${QEMU_ARGUMENTS:-} </dev/null
}

# /dev/kvm may be there and not boot this kernel (a host that is a guest itself): tried once.
kvm_boots() {
    [ -w /dev/kvm ] || return 1
    if [ ! -e "$folder/kvm" ]; then
        say "trying KVM"
        boot kvm 90 ringpost_probe >"$folder/kvm.log" 2>&1 || true
        [ "$(status_read)" = 0 ] && echo yes >"$folder/kvm" || echo no >"$folder/kvm"
    fi
    [ "$(cat "$folder/kvm")" = yes ]
}

status_read() { tr -d '\r\n' <"$folder/status" 2>/dev/null || true; }

# Read whole before it runs for an hour, in which this file may change.
main() {
    clone_make
    accelerator=${ACCELERATOR:-}
    if [ -z "$accelerator" ]; then
        accelerator=tcg
        if kvm_boots; then
            accelerator=kvm
        fi
    fi
    [ "$accelerator" != tcg ] || say "KVM does not boot this kernel here, or is not asked for: emulation, some ten times slower"
    say "Linux $version ($accelerator, ${CPUS:-2} processors, ${MEMORY:-4G}): $command"
    boot "$accelerator" "$((${MINUTES:-60} * 60))" || say "the machine was ended (status $?)"
    status=$(status_read)
    [ -n "$status" ] || fail "it ended before the command did"
    say "status $status"
    exit "$status"
}
main
