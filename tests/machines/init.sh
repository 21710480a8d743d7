#!/bin/bash
# The first process of the machine that machine.sh starts: file systems, loopback, the command, the end.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb USER=root
over() {
    echo "$1" >/dev/ttyS1
    sync
    dmesg --console-off
    echo b >/proc/sysrq-trigger     # with -no-reboot this ends the machine
    sleep 60
}

mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname machine
ip link set lo up
stty -F /dev/console -opost
if grep -qw ringpost_probe /proc/cmdline; then
    over 0
fi
mount /dev/vdb /ringpost || over 125
cd /ringpost || over 125
# Orphans of tests are this shell's children then; it reaps them.
setsid bash -c "$(cat .git/machine-command)" </dev/null >/dev/console 2>&1
over $?
