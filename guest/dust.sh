#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Sectors that go bad under data, and are good again once they are written (dm-dust): what most disks do. Nothing has to move for them.
. "$(dirname "$0")/lib.sh"
begin dm-dust
ram_disks 2
M=/dev/mapper/dusty P=/dev/ram1 D=/dev/nbd0
dmsetup create dusty --table "0 $S dust /dev/ram0 0 512"
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
ok "a volume" adopt $M $P
ok "is served" serve $D $M $P
ok "is filled" $DD if=/tmp/all of=$D bs=64k oflag=direct conv=notrunc
for sector in 700 4001 4002 30000; do dmsetup message dusty 0 addbadblock $sector; done
dmsetup message dusty 0 enable
ok "the disk below does fail" refused get $M 700 1 /tmp/b
ok "a sector that went bad is an error" refused get $D 700 1 /tmp/b
ok "again" refused get $D 700 1 /tmp/b
get $D 701 7 /tmp/b; $DD if=/tmp/all of=/tmp/c bs=512 skip=701 count=7 2>/dev/null
ok "the rest of its block can be read" cmp /tmp/b /tmp/c
# Sector by sector, and no further than the first bad one.
ok "so is the next that is asked for" refused get $D 4000 8 /tmp/b
ok "its neighbour was not asked for" counted 2 lost dusty
ok "a look at all of the block finds it" dm-remap message dusty verify 4000-4007
ok "three sectors are lost" counted 3 lost dusty
pattern Z 1 >/tmp/z
ok "one is overwritten" put /tmp/z $D 700
get $D 700 1 /tmp/b
ok "and reads back" cmp /tmp/z /tmp/b
ok "the disk took it" get $M 700 1 /tmp/b
ok "so nothing moved" counted 0 remapped dusty
ok "two sectors are lost" counted 2 lost dusty
ok "a whole block is overwritten" $DD if=/tmp/all of=$D bs=4096 skip=500 seek=500 count=1 oflag=direct conv=notrunc
get $D 4000 8 /tmp/b; $DD if=/tmp/all of=/tmp/c bs=512 skip=4000 count=8 2>/dev/null
ok "and reads back" cmp /tmp/b /tmp/c
ok "nothing is lost" counted 0 lost dusty
ok "one that nobody asked for is found by a look" dm-remap message dusty verify 29990-30010
ok "and counted" counted 1 lost dusty
ok "the server ends in order" unserve $D
ok "is served again" serve $D $M $P
ok "and still an error" refused get $D 30000 1 /tmp/b
ok "the server ends" unserve $D
dmsetup remove dusty
finish
