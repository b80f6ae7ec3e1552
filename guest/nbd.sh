#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# ext4 on a volume that user space serves over nbd, whose main device has sectors that take nothing and give nothing.
. "$(dirname "$0")/lib.sh"
begin
ram_disks 2
bad_disk flawed /dev/ram0 1000 8 2001 1 4096 64 20000 8 33333 3 50000 1
M=/dev/mapper/flawed P=/dev/ram1 D=/dev/nbd0
ok "the disk below does fail" refused get $M 1000 1 /tmp/b
ok "a volume" adopt $M $P
ok "is served" serve $D $M $P
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
ok "every sector is written, the bad ones too" $DD if=/tmp/all of=$D bs=64k oflag=direct conv=notrunc
$DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "and reads back" cmp /tmp/all /tmp/b
ok "blocks with bad sectors moved" counted 13 remapped flawed
ok "nothing is lost" counted 0 lost flawed
rm -f /tmp/all /tmp/b

ok "a file system" mkfs.ext4 -q -F $D
ok "is mounted" mount -t ext4 $D /mnt
i=0
while [ $i -lt 20 ]; do $DD if=/dev/urandom of=/mnt/file$i bs=64k count=18 2>/dev/null; i=$((i + 1)); done
(cd /mnt && md5sum file*) >/tmp/sums
ok "is unmounted" umount /mnt
ok "is whole" e2fsck -fn $D
ok "the server ends in order" unserve $D
ok "the metadata are good" dm-remap metadata check --spare $P
ok "is served again" serve $D $M $P
ok "is mounted again" mount -t ext4 -o ro $D /mnt
ok "has all its files" sh -c 'cd /mnt && md5sum -c /tmp/sums'
umount /mnt
ok "the server ends" unserve $D
ok "the kernel saw no error of the volume" sh -c "! dmesg | grep -E 'error.* nbd0'"
dmsetup remove flawed
finish
