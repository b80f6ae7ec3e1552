#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# RAID1 over two volumes, of which one has a failing disk below. Wants mdadm, mkfs.ext4, e2fsck and the modules raid1 and ext4.
. "$(dirname "$0")/lib.sh"
begin
modprobe -a raid1 ext4
n=0 bad=; while [ $n -lt 100 ]; do bad="$bad $((4096 + n * 500)) $((1 + n % 12))"; n=$((n + 1)); done
bad_disk flawed /dev/ram0 $bad
ok "a volume on a bad disk" dmsetup create r --table "0 $S dm-remap /dev/mapper/flawed /dev/ram1"
ok "a volume on a good one" dmsetup create r2 --table "0 $S dm-remap /dev/ram2 /dev/ram3"
A=/dev/mapper/r B=/dev/mapper/r2
ok "an array" mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.0 --assume-clean $A $B
both() { grep -q '\[UU\]' /proc/mdstat; }
idle() { [ "$(cat /sys/block/md0/md/sync_action)" = idle ]; }
ok "a file system" mkfs.ext4 -q -F /dev/md0
mkdir -p /mnt
ok "is mounted" mount -t ext4 /dev/md0 /mnt
$DD if=/dev/urandom of=/mnt/file bs=64k count=240 conv=fsync 2>/dev/null
sum=$(md5sum </mnt/file)
ok "both members are in" both
ok "blocks moved: the array saw no failed write" test "$(moved r)" -gt 10
# What is still bad was never written. The array reads it, has an error, takes the other member's bytes and writes them: that heals it.
echo repair >/sys/block/md0/md/sync_action
ok "a repair ends" soon idle
cat /proc/mdstat; dmsetup status r
ok "both members are still in" both
ok "nothing is lost any more" test "$(lost r)" = 0
echo check >/sys/block/md0/md/sync_action
ok "a check ends" soon idle
ok "the members are alike" test "$(cat /sys/block/md0/md/mismatch_cnt)" = 0
umount /mnt
ok "the array is taken down" mdadm --stop /dev/md0
ok "remove, create" sh -c "dmsetup remove r && dmsetup create r --table '0 $S dm-remap /dev/mapper/flawed /dev/ram1'"
ok "the healed member alone is an array" mdadm --assemble /dev/md0 --run $A
ok "the file system is whole" e2fsck -fn /dev/md0
ok "is mounted" mount -t ext4 /dev/md0 /mnt
ok "has its file" test "$(md5sum </mnt/file)" = "$sum"
$DD if=/dev/urandom of=/mnt/more bs=64k count=40 conv=fsync 2>/dev/null
sum=$(cat /mnt/file /mnt/more | md5sum)
ok "the other comes back" mdadm --manage /dev/md0 --add $B
ok "and is in step" soon both
umount /mnt
ok "is taken down" mdadm --stop /dev/md0
ok "the good member alone is an array" mdadm --assemble /dev/md0 --run $B
ok "is mounted" mount -t ext4 /dev/md0 /mnt
ok "has both files" test "$(cat /mnt/file /mnt/more | md5sum)" = "$sum"
umount /mnt
ok "all is taken down" sh -c "mdadm --stop /dev/md0 && dmsetup remove r && dmsetup remove r2 && dmsetup remove flawed"
finish
