#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Disks with caches and medium errors of their own. Wants /dev/sda (SCSI, 32 MiB; reads of sector 2000 and writes of sectors 3000 to 3007 fail
# as medium errors) and /dev/vda (virtio, 32 MiB) as the spare, both with a write cache.
. "$(dirname "$0")/lib.sh"
begin
M=/dev/sda
P=/dev/vda
D=/dev/mapper/r
ok "a volume on two disks" dmsetup create r --table "0 $S dm-remap $M $P"
dm=$(dmsetup info -c --noheadings -o blkdevname r)
ok "it has a write cache as they have" grep -q "write back" /sys/block/$dm/queue/write_cache

flushes() { awk '{print $16}' /sys/block/$1/stat; }
before_main=$(flushes sda) before_spare=$(flushes vda)
shown() { cat /sys/block/$dm/remap/$1; }
before_writes=$(shown writes) before_flushes=$(shown flushes)
pattern F 8 >/tmp/f
$DD if=/tmp/f of=$D bs=4096 seek=500 oflag=direct conv=notrunc,fsync 2>/dev/null
echo "# flushes of main $before_main -> $(flushes sda), of spare $before_spare -> $(flushes vda)"
ok "a flush reaches the main device" test $(flushes sda) -gt $before_main
ok "and the spare" test $(flushes vda) -gt $before_spare
ok "it is counted as one" test $(shown flushes) = $((before_flushes + 1))
ok "and not as a write" test $(shown writes) = $((before_writes + 1))

# A write in one piece, cut at a block that is elsewhere: what the medium refuses is in the rest of it.
ok "a block in front of the bad ones is elsewhere" says "remapped sector 2992" r remap 2992
$DD if=/dev/urandom of=/tmp/long bs=64k count=1 2>/dev/null
ok "a long write that the medium refuses succeeds" $DD if=/tmp/long of=$D bs=64k seek=$((2944 * 512)) oflag=direct,seek_bytes conv=notrunc
$DD if=$D of=/tmp/b bs=64k skip=$((2944 * 512)) count=1 iflag=direct,skip_bytes 2>/dev/null
ok "and reads back" cmp /tmp/long /tmp/b
ok "a write that the medium refuses succeeds" put /tmp/f $D 3000
get $D 3000 8 /tmp/b
ok "and reads back" cmp /tmp/f /tmp/b
ok "from the spare" says "sector 3000 -> spare" r verify 3000
ok "a sector that the medium does not give is an error" refused get $D 2000 1 /tmp/b
$DD if=$D of=/tmp/b bs=512 skip=2000 count=1 iflag=direct 2>/tmp/said
ok "the error is EIO" grep -q "Input/output error" /tmp/said
ok "its neighbour is not" get $D 2001 7 /tmp/b
i=0; while [ $i -lt 50 ] && [ "$(shown lost_sectors)" = 0 ]; do sleep 0.1; i=$((i + 1)); done
ok "it is known to be lost" test "$(shown lost_sectors)" = 1

ok "a file system" mkfs.ext4 -q -F $D
mkdir -p /mnt
ok "is mounted" mount -t ext4 $D /mnt
$DD if=/dev/urandom of=/mnt/file bs=64k count=200 conv=fsync 2>/dev/null
sum=$(md5sum </mnt/file)
ok "is suspended and resumed" sh -c "dmsetup suspend r && dmsetup resume r"
umount /mnt
ok "remove, create" sh -c "dmsetup remove r && dmsetup create r --table '0 $S dm-remap $M $P'"
ok "is mounted again" mount -t ext4 $D /mnt
ok "has its file" test "$(md5sum </mnt/file)" = "$sum"
umount /mnt

# (The file system may have written over what was written above.)
get $D 3000 8 /tmp/f
moved=$(dmsetup status r | awk '{print $5}')
echo 1 >/sys/block/sda/device/delete
ok "without the main device writes fail" refused put /tmp/f $D 20000
i=0; while [ $i -lt 20 ]; do dmsetup status r | grep -q 'health=4' && break; sleep 0.1; i=$((i + 1)); done
dmsetup status r
ok "remapping is suspended" sh -c "dmsetup status r | grep -q 'health=4'"
ok "and nothing moved" sh -c "dmsetup status r | grep -q ' v2.0 $moved '"
get $D 3000 8 /tmp/b
ok "what is on the spare can be read" cmp /tmp/f /tmp/b
ok "remove" dmsetup remove r
finish
