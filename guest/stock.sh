#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Stock tables: a volume as plain linear and error segments. A disk with sectors that cannot be read, a read error that moves what is beside it, moves
# by command while ext4 is in use, zeroes where nothing is, and what is refused.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stock.lib"
begin
ram_disks 2
scsi_disk 2003 2
P=/dev/ram0 D=/dev/mapper/disk
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
$DD if=/tmp/all of=$M bs=64k oflag=direct conv=notrunc 2>/dev/null
ok "a volume" adopt $M $P --policy remap-only
V=${M##*/}
ok "is served" stock disk $M $P
table_of disk
ok "its device is there" test -b $D
ok "of the volume's size" test "$(blockdev --getsz $D)" = $S
ok "its UUID is ours" sh -c "dmsetup info -c --noheadings -o uuid disk | grep -q '^DM-REMAP-'"
ok "one segment" test "$(dmsetup table disk | wc -l)" = 1
ok "status names it" sh -c "dm-remap status $V | tee /tmp/said | grep -q /dev/mapper/disk"
sed 's/^/# /' /tmp/said
get $D 0 2000 /tmp/b; head -c $((2000 * 512)) /tmp/all >/tmp/c
ok "every byte" cmp /tmp/b /tmp/c

ok "a bad sector is an error" refused get $D 2003 1 /tmp/b
ok "it is heard of, and its neighbours move" wait_for table_has disk "^2003 2 error"
table_of disk
ok "two sectors are lost" test "$(lost $V)" = 2
get $D 2000 3 /tmp/b; $DD if=/tmp/all of=/tmp/c bs=512 skip=2000 count=3 2>/dev/null
ok "what is before them is on the spare" cmp /tmp/b /tmp/c
get $D 2005 3 /tmp/b; $DD if=/tmp/all of=/tmp/c bs=512 skip=2005 count=3 2>/dev/null
ok "and what is behind" cmp /tmp/b /tmp/c
pattern H 2 >/tmp/h
ok "nobody can overwrite them" refused put /tmp/h $D 2003
ok "a message puts zeroes there" says_also "^2 sectors" dm-remap message $V heal 2003-2004
ok "so they can be read" get $D 2003 2 /tmp/b
ok "and written" put /tmp/h $D 2003
get $D 2003 2 /tmp/b
ok "and read back" cmp /tmp/b /tmp/h
ok "nothing is lost any more" test "$(lost $V)" = 0
$DD if=/tmp/h of=/tmp/all bs=512 seek=2003 conv=notrunc 2>/dev/null

ok "blocks move by command" dm-remap message $V remap 4000-4999
ok "to the spare" test "$(remapped $V)" -ge 125
ok "the export says what the kernel has" wait_for same_table $V disk
$DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "every byte is there" cmp /tmp/all /tmp/b
ok "half of them come home" dm-remap message $V clear 4000-4499
$DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "every byte is there" cmp /tmp/all /tmp/b
ok "all is read beside the clients" dm-remap message $V verify 0+$S

ok "a file system" mkfs.ext4 -q -F $D
ok "is mounted" mount -t ext4 $D /mnt
(
    i=0
    while [ $i -lt 20 ]; do $DD if=/dev/urandom of=/mnt/file$i bs=64k count=16 conv=fsync 2>/dev/null; i=$((i + 1)); done
    touch /tmp/written
) &
writer=$!
moves=0
while [ ! -e /tmp/written ] && [ $moves -lt 200 ]; do
    at=$((moves * 2503 % 60000))
    dm-remap message $V remap $at+400 >/dev/null 2>&1 || echo "# remap $at failed"
    dm-remap message $V clear $at+400 >/dev/null 2>&1 || echo "# clear $at failed"
    moves=$((moves + 1))
done
wait $writer
echo "# blocks were moved $moves times while files were written"
ok "blocks moved while files were written" test $moves -gt 2
(cd /mnt && md5sum file*) >/tmp/sums
ok "is unmounted" umount /mnt
ok "is whole" e2fsck -fn $D
ok "is mounted again" mount -t ext4 -o ro $D /mnt
ok "has all its files" sh -c 'cd /mnt && md5sum -c /tmp/sums'
dm-remap status $V | grep mapper | sed 's/^/# /'

ok "the device is in use: it stays" refused dm-remap stock remove disk
ok "a second server is refused" refused dm-remap stock serve $M --spare $P --mapper disk
ok "so is one of another kind" refused dm-remap serve $M --spare $P --unix /tmp/other.nbd
ok "and whoever wants the spare" refused mkfs.ext4 -q $P
ok "the server ends in order" end_stock
ok "the device stays" get $D 0 8 /tmp/b
ok "it cannot be removed while it is mounted" refused_with "in use" dm-remap stock remove disk
umount /mnt
ok "then it can" dm-remap stock remove disk
ok "and is gone" refused test -e $D
ok "the metadata are good" dm-remap metadata check --spare $P

# Refusals.
dmsetup create other --table "0 1024 linear /dev/ram1 0"
ok "another device's name is refused" refused_with "another mapped device" dm-remap stock serve $M --spare $P --mapper other
ok "it is not removed either" refused_with "not a stock table" dm-remap stock remove other
dmsetup remove other
ok "a name that cannot be is refused" refused_with "cannot be the name" dm-remap stock assemble $M --spare $P --mapper a/b
ok "a device that is not there cannot be removed" refused_with "no mapped device" dm-remap stock remove nothing
$DD if=/dev/zero of=/tmp/file bs=1M count=8 2>/dev/null
ok "a file is refused" refused_with losetup dm-remap stock assemble $M --spare /tmp/file
mount -t ext4 -o ro $M /mnt
ok "a main device that is mounted is refused" refused_with "in use.*mounted on" dm-remap stock assemble $M --spare $P
umount /mnt
dmsetup create stranger --table "0 $S linear $M 0"
ok "one below another mapped device is refused" refused_with "in use by the mapped device stranger" dm-remap stock assemble $M --spare $P
dmsetup remove stranger
ok "nothing was left behind" sh -c "dmsetup ls | grep -q 'No devices'"
ok "read-only" dm-remap stock assemble $M --spare $P --mapper look --read-only
ok "takes no write" refused put /tmp/h /dev/mapper/look 0
ok "and gives what is there" get /dev/mapper/look 2000 8 /tmp/b
ok "is removed" dm-remap stock remove look
finish
