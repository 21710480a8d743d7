#!/usr/bin/env bash
# Runs one command with the kernel of a Debian suite, in a virtual machine: what a chroot cannot tell (tests/clean_machine.sh).
# usage (root): tests/machines/machine.sh SUITE [COMMAND]          make machine SUITE=bookworm COMMAND='make unit'
#   SUITE    bookworm (Linux 6.1), trixie (6.12), bookworm-backports, trixie-backports (newer ones)
#   COMMAND  a line for bash, run by root in a clone of the last commit, /ringpost (what is not committed is left out);
#            without one it says which kernel it is. Its output is shown as it comes, its status is this script's.
# Needs debootstrap, qemu-system-x86, e2fsprogs, git, and the archive for the first run of a suite: the system is made once, with the
# suite's kernel and what packaging/deps.sh build and test install. The machine has no network but its loopback. Its system
# forgets what was done to it; /ringpost stays, so that a second run need not build everything again.
# Environment:
#   MACHINES=build/machines   where systems and disks are (6 GB a suite, more with builds)
#   RINGPOST_MIRROR=http://deb.debian.org/debian   the archive
#   MEMORY=4G CPUS=2          of the machine
#   MINUTES=60                when it is ended, finished or not
#   CLEAN=1                   makes system and /ringpost anew
#   ACCELERATOR=kvm|tcg       kvm where /dev/kvm works, else emulation, which is some twenty times slower
set -euo pipefail
cd "$(dirname "$0")/../.."
say() { printf 'machine: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

suite=${1:?usage: tests/machines/machine.sh SUITE [COMMAND]}
command=${2:-uname -sr; nproc; free -m}
base=${suite%-backports}
mirror=${RINGPOST_MIRROR:-http://deb.debian.org/debian}
folder=$(realpath -m "${MACHINES:-build/machines}/$suite")
root=$folder/root
[ "$(id -u)" = 0 ] || fail "needs root"
for tool in debootstrap qemu-system-x86_64 mke2fs git; do
    command -v "$tool" >/dev/null || fail "needs $tool (packages debootstrap, qemu-system-x86, e2fsprogs, git)"
done
mkdir -p "$folder"
exec 9>"$folder/lock"
flock -n 9 || fail "$folder is in use"

# inside LINE: in the system's folder. Mounts are made in a namespace of their own and end with it.
inside() {
    unshare --mount --propagation private bash -euc '
        mount -t proc proc "$0/proc"
        mount --rbind /dev "$0/dev"
        exec chroot "$0" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb \
            DEBIAN_FRONTEND=noninteractive RINGPOST_MIRROR="$2" bash -euc "$1"' "$root" "$1" "$mirror"
}

# What the system is made of: when any of it changes, packages are looked at again.
recipe() { { echo "$suite"; cat "$0" packaging/deps.sh packaging/private_apt.sh packaging/liburing.pin; } | sha256sum; }

system_make() {
    if [ ! -e "$root/.bootstrapped" ]; then
        say "making $base in $root"
        rm -rf --one-file-system "$root"
        debootstrap --variant=minbase --include=ca-certificates,git,iproute2,kmod,make,procps "$base" "$root" "$mirror" \
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
    mkdir -p "$root/ringpost"
    say "writing the system's disk"
    rm -f "$folder"/system.img "$folder"/work.img
    mke2fs -q -t ext4 -d "$root" "$folder/system.img" 8G
    mke2fs -q -t ext4 "$folder/work.img" 16G
    recipe >"$folder/recipe"
}

if [ "${CLEAN:-0}" = 1 ]; then
    rm -rf --one-file-system "$root"
    rm -f "$folder/recipe"
fi
[ "$(cat "$folder/recipe" 2>/dev/null)" = "$(recipe)" ] || system_make
kernel=$(find "$root/boot" -name 'vmlinuz-*' | sort -V | tail -n 1)
version=${kernel##*/vmlinuz-}

# What it is to do comes as a tar archive on a disk of its own: the commit as a git bundle, and the command.
job=$(mktemp -d "$folder/job.XXXXXX")
trap 'rm -rf "$job"' EXIT
git bundle create -q "$job/tree" HEAD
printf '%s\n' "$command" >"$job/command"
tar -c -f "$job/job.tar" -C "$job" tree command

accelerator=${ACCELERATOR:-}
if [ -z "$accelerator" ]; then
    accelerator=tcg
    [ ! -w /dev/kvm ] || accelerator=kvm
fi
# A kernel that is itself a guest may refuse the register that tells of speculation; nothing here needs it.
processor=host,-arch-capabilities
if [ "$accelerator" = tcg ]; then
    processor=max
    say "no KVM here: emulation, which is slow"
fi
say "Linux $version ($accelerator, ${CPUS:-2} processors, ${MEMORY:-4G}): $command"
rm -f "$folder/status"
TMPDIR=$folder timeout --foreground "$((${MINUTES:-60} * 60))" qemu-system-x86_64 -machine q35 -accel "$accelerator" -cpu "$processor" \
    -smp "${CPUS:-2}" -m "${MEMORY:-4G}" -nodefaults -no-user-config -display none -no-reboot \
    -kernel "$kernel" -initrd "$root/boot/initrd.img-$version" \
    -append "console=ttyS0 root=/dev/vda rw init=/init quiet loglevel=3 panic=-1" \
    -serial stdio -serial "file:$folder/status" -device virtio-rng-pci \
    -drive "file=$folder/system.img,format=raw,if=virtio,snapshot=on" \
    -drive "file=$folder/work.img,format=raw,if=virtio,cache=unsafe" \
    -drive "file=$job/job.tar,format=raw,if=virtio,readonly=on" </dev/null ||
    say "the machine was ended (status $?)"
status=$(tr -d '\r\n' <"$folder/status" 2>/dev/null || true)
[ -n "$status" ] || fail "it ended before the command did"
say "status $status"
exit "$status"
