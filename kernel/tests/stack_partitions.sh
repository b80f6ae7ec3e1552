#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Partitions above a volume, as kpartx makes them, with bad sectors across their border; and a volume whose main device and spare are partitions. Wants sfdisk,
# losetup, blkdiscard, mkfs.ext4, e2fsck and the modules loop and ext4.
. "$(dirname "$0")/lib.sh"
begin
modprobe -a loop ext4
mkdir -p /mnt/a /mnt/b
# The first ends at sector 32767, the second begins at 32768: bad sectors on both sides.
bad="32752 32"; n=0; while [ $n -lt 30 ]; do bad="$bad $((36864 + n * 800)) 8"; n=$((n + 1)); done
bad_disk flawed /dev/ram0 $bad
D=/dev/mapper/r
ok "a volume" dmsetup create r --table "0 $S dm-remap /dev/mapper/flawed /dev/ram1"
ok "a partition table" sh -c "printf 'label: gpt\nstart=2048, size=30720\nstart=32768, size=30720\n' | sfdisk -q --no-reread --no-tell-kernel $D"
parts() { sfdisk -d $D | sed -n 's/.*start= *\([0-9]*\), size= *\([0-9]*\).*/\1 \2/p' | { n=0; while read -r start size; do n=$((n + 1)); dmsetup create r-part$n --table "0 $size linear $D $start" || exit 1; done; }; }
ok "its partitions" parts
# What cannot be read is overwritten before anybody wants to keep its neighbours.
ok "the bad sectors are overwritten" sh -c "$DD if=/dev/zero of=$D bs=4096 seek=4094 count=4 oflag=direct conv=notrunc"
ok "file systems" sh -c "mkfs.ext4 -q -F -b 4096 $D-part1 && mkfs.ext4 -q -F -b 4096 $D-part2"
ok "are mounted" sh -c "mount -t ext4 $D-part1 /mnt/a && mount -t ext4 $D-part2 /mnt/b"
$DD if=/dev/urandom of=/mnt/a/file bs=64k count=160 conv=fsync 2>/dev/null
$DD if=/dev/urandom of=/mnt/b/file bs=64k count=200 conv=fsync 2>/dev/null
sums=$(cat /mnt/a/file /mnt/b/file | md5sum)
sh -c "umount /mnt/a && umount /mnt/b"
pattern P 32 >/tmp/p
$DD if=$D-part1 of=/tmp/was bs=512 skip=30704 count=16 iflag=direct 2>/dev/null
ok "the last sectors of the first" put /tmp/p $D-part1 30688
ok "and the first of the second: what a disk has there is another partition's" $DD if=$D-part2 of=/tmp/first bs=512 count=16 iflag=direct
get $D 32736 32 /tmp/b
ok "are where they belong" cmp /tmp/p /tmp/b
get $D 32768 16 /tmp/b
ok "and next to each other" cmp /tmp/first /tmp/b
ok "blocks moved" test "$(moved r)" -ge 10
ok "all goes and comes" sh -c "dmsetup remove r-part1 && dmsetup remove r-part2 && dmsetup remove r && dmsetup create r --table '0 $S dm-remap /dev/mapper/flawed /dev/ram1'"
ok "the table is the same" parts
ok "the file systems are whole" sh -c "e2fsck -fn $D-part1 && e2fsck -fn $D-part2"
ok "are mounted" sh -c "mount -t ext4 $D-part1 /mnt/a && mount -t ext4 $D-part2 /mnt/b"
ok "have their files" test "$(cat /mnt/a/file /mnt/b/file | md5sum)" = "$sums"
umount /mnt/a; umount /mnt/b
ok "all is taken down" sh -c "dmsetup remove r-part1 && dmsetup remove r-part2 && dmsetup remove r && dmsetup remove flawed"

echo "# on partitions"
$DD if=/dev/urandom of=/tmp/disk bs=1M count=24 2>/dev/null
printf 'label: gpt\nstart=2048, size=16384\nstart=18432, size=30000\n' | sfdisk -q /tmp/disk
ok "a disk with two partitions" sh -c "/usr/sbin/losetup -P /dev/loop0 /tmp/disk && test -b /dev/loop0p2"
$DD if=/dev/zero of=/dev/loop0p1 bs=64k count=128 conv=fsync 2>/dev/null
$DD if=/tmp/disk of=/tmp/before bs=1M 2>/dev/null
ok "a volume: the second is the main device, the first the spare" dmsetup create r --table "0 30000 dm-remap /dev/loop0p2 /dev/loop0p1"
$DD if=/dev/loop0p2 of=/tmp/was bs=64k iflag=direct 2>/dev/null
$DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "it holds what the partition does" cmp /tmp/was /tmp/b
ok "blocks move" says "remapped 300 blocks of 300" r remap 8000-10399
$DD if=/dev/urandom of=/tmp/new bs=512 count=2000 2>/dev/null
put /tmp/new $D 8100
$DD if=/tmp/new of=/tmp/was bs=512 seek=8100 conv=notrunc 2>/dev/null
$DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "every byte reads back" cmp /tmp/was /tmp/b
# The loop device takes zeroes and discards by themselves.
queue=/sys/block/$(dmsetup info -c --noheadings -o blkdevname r)/queue
ok "zeroes need no bytes" test "$(cat $queue/write_zeroes_max_bytes)" -gt 0
ok "zeroes over a border" $BLKDISCARD -z -o $((7991 * 512)) -l $((60 * 512)) $D
$DD if=/dev/zero of=/tmp/was bs=512 seek=7991 count=60 conv=notrunc 2>/dev/null
$DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "are zeroes there and nowhere else" cmp /tmp/was /tmp/b
ok "a discard over a border" $BLKDISCARD -o $((7936 * 512)) -l $((192 * 512)) $D
$DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
$DD if=/tmp/b of=/tmp/was bs=512 skip=7936 seek=7936 count=64 conv=notrunc 2>/dev/null
ok "leaves what is on the spare, and everything else" cmp /tmp/was /tmp/b
ok "and goes home" says "cleared all remap entries" r clear
$DD if=/dev/loop0p2 of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "to its place" cmp /tmp/was /tmp/b
ok "remove" dmsetup remove r
sync
$DD if=/tmp/disk of=/tmp/a bs=512 count=2048 2>/dev/null; $DD if=/tmp/before of=/tmp/b bs=512 count=2048 2>/dev/null
ok "what is before the partitions is as it was" cmp /tmp/a /tmp/b
$DD if=/tmp/disk of=/tmp/a bs=512 skip=48432 2>/dev/null; $DD if=/tmp/before of=/tmp/b bs=512 skip=48432 2>/dev/null
ok "and what is behind them" cmp /tmp/a /tmp/b
ok "the disk goes" /usr/sbin/losetup -d /dev/loop0
finish
