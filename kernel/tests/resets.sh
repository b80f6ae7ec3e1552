#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The guest's power fails under load, again and again: three volumes with bad sectors, their spares slices of one disk, ext4, xfs and btrfs on them; files are
# written and made durable in steps until the machine is reset. After each reset everything that was written since the first is compared. Five lives on the same
# disks, which begin blank: every one but the last ends by a reset. Wants /disk/main (96 MiB), /disk/spare (32 MiB) and /disk/note (1 MiB), the program remap-chaos,
# and those that make and check the file systems: mkfs.ext4, e2fsck, mkfs.xfs, xfs_repair, mkfs.btrfs, btrfs.
. "$(dirname "$0")/lib.sh"
CUTS=4
N=65536 P=16384 # sectors of each main device, of each spare
kinds="ext4 xfs btrfs"
# The note has a slice of 64 sectors for each file system: its first says how far the steps of this life came, its sector 8 + N how far those of life N did.
noted() { $DD if=/disk/note bs=512 skip="$1" count=1 iflag=direct 2>/dev/null | tr -d '\0' | head -n 1; }
note() { { echo "$2"; head -c 512 /dev/zero; } | head -c 512 >/tmp/sector; $DD if=/tmp/sector of=/disk/note bs=512 seek="$1" oflag=direct conv=notrunc,fsync 2>/dev/null; }
boot=$(($1 - 1))
begin
modprobe -a $kinds

each() { at=0; for fs in $kinds; do at=$((at + 1)); "$@" || return 1; done; }
disks() {
    dmsetup create main-$fs --table "0 $N linear /disk/main $(((at - 1) * N))"
    dmsetup create note-$fs --table "0 64 linear /disk/note $((at * 64))"
    bad= n=0
    while [ $n -lt 120 ]; do bad="$bad $((4096 + n * 480 + at * 8)) $((8 + n % 4 * 8))"; n=$((n + 1)); done
    bad_slice bad-$fs $N /dev/mapper/main-$fs $bad
    mkdir -p /mnt/$fs
}
volume() { dmsetup create $fs --table "0 $N remap /dev/mapper/bad-$fs /disk/spare $(((at - 1) * P)) $P"; }
make() {
    case $fs in
    ext4) mkfs.ext4 -q -F -b 4096 -E nodiscard,lazy_itable_init=0 /dev/mapper/$fs ;;
    xfs) mkfs.xfs -q -f -K -s size=4096 --unsupported /dev/mapper/$fs ;;
    btrfs) mkfs.btrfs -q -f -K -M /dev/mapper/$fs ;;
    esac
}
check() {
    case $fs in
    ext4) e2fsck -fn /dev/mapper/$fs ;;
    xfs) xfs_repair -n /dev/mapper/$fs ;;
    btrfs) btrfs check --readonly /dev/mapper/$fs ;;
    esac
}
mounted() { mount -t $fs /dev/mapper/$fs /mnt/$fs; }
compare() {
    dmsetup status $fs
    n=0
    while [ $n -lt $boot ]; do
        step=$(noted $((at * 64 + 8 + n)))
        ok "$fs: what boot $n made durable in $step steps is there" remap-chaos steps check /mnt/$fs --number $n --seed $((n + at)) --after "$step"
        n=$((n + 1))
    done
}
# How far the last boot came.
keep() { note $((at * 64 + 8 + boot - 1)) "$(noted $((at * 64)))" && note $((at * 64)) ""; }
begun() { [ -n "$(noted $((at * 64)))" ] && [ "$(noted $((at * 64)))" -ge $((boot * 4 + 4)) ]; }

ok "disks" each disks
[ $boot = 0 ] || ok "the note is kept" each keep
ok "volumes" each volume
[ $boot != 0 ] || ok "file systems" each make
ok "are mounted" each mounted
each compare
[ $failed = 0 ] || finish
if [ $boot -lt $CUTS ]; then
    each eval 'remap-chaos steps write /mnt/$fs --number $boot --seed $((boot + at)) --steps 49 --note /dev/mapper/note-$fs >/tmp/steps.$fs 2>&1 & true'
    ok "steps are under way everywhere" soon each begun
    [ $failed = 0 ] || { cat /tmp/steps.*; finish; }
    ok "the log has no warning of the kernel" clean_log
    [ $failed = 0 ] || finish
    sleep 0.$boot
    power_cut
fi
ok "are unmounted" each eval 'umount /mnt/$fs'
ok "are whole" each check
ok "blocks moved" each eval 'test "$(moved $fs)" -ge 10'
ok "remove" each eval 'dmsetup remove $fs'
finish
