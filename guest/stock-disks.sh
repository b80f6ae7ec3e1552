#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Stock tables on a disk that takes no writes to some sectors. Wants /dev/sda (SCSI, 32 MiB; reads of sector 2000 and writes of sectors 3000 to 3007
# fail as medium errors) and /dev/vda (virtio, 32 MiB) as the spare, both with a write cache.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stock.lib"
begin
M=/dev/sda P=/dev/vda D=/dev/mapper/disk V=sda
ok "a volume" adopt $M $P
ok "is served" stock disk $M $P
dm=$(dmsetup info -c --noheadings -o blkdevname disk)
ok "it has a write cache as they have" grep -q "write back" /sys/block/$dm/queue/write_cache
pattern F 8 >/tmp/f
ok "the first write that the medium refuses reaches the client" refused put /tmp/f $D 3000
ok "its block moves" wait_for remapped_is $V 1
ok "and is in the table" wait_for table_has disk "^3000 8 linear"
table_of disk
ok "the next write succeeds" put /tmp/f $D 3000
get $D 3000 8 /tmp/b
ok "and reads back" cmp /tmp/f /tmp/b
ok "nothing is lost" test "$(lost $V)" = 0
ok "a sector that the medium does not give is an error" refused get $D 2000 1 /tmp/b
ok "its neighbours are not" get $D 2001 7 /tmp/b
ok "it is left to the disk" wait_for figure_is $V left_to_main 1
ok "so the table has nothing of it" test "$(dmsetup table disk | wc -l)" = 3
flushes() { awk '{print $16}' /sys/block/$1/stat; }
before_main=$(flushes sda) before_spare=$(flushes vda)
$DD if=/tmp/f of=$D bs=4096 seek=500 oflag=direct conv=notrunc,fsync 2>/dev/null
ok "a flush reaches the main device" test $(flushes sda) -gt $before_main
ok "and the spare" test $(flushes vda) -gt $before_spare

ok "a file system" mkfs.ext4 -q -F $D
ok "is mounted" mount -t ext4 $D /mnt
$DD if=/dev/urandom of=/mnt/file bs=64k count=200 conv=fsync 2>/dev/null
sum=$(md5sum </mnt/file)
ok "blocks move below it" dm-remap message $V remap 8000-9999
echo 3 >/proc/sys/vm/drop_caches
ok "the file is whole" test "$(md5sum </mnt/file)" = "$sum"
umount /mnt
# What a file put there meanwhile.
get $D 3000 8 /tmp/f

echo 1 >/sys/block/sda/device/delete
ok "without the main device writes fail" refused put /tmp/f $D 20000
dm-remap message $V remap 30000 | sed 's/^/# /'
ok "remapping is suspended" wait_for sh -c "dm-remap status $V | grep -qi 'suspended\|frozen'"
get $D 3000 8 /tmp/b
ok "what is on the spare can be read" cmp /tmp/f /tmp/b
ok "the server ends" end_stock
ok "the device is removed" dm-remap stock remove disk
finish
