#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Stock tables under rewrite-then-remap: what the disk cannot read is left to it, and takes an overwrite (dm-dust below: written sectors are good again).
# No word of the kernel names such a disk: what is bad is found by looking. And known losses, which no disk would tell.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stock.lib"
begin dm-dust
ram_disks 4
M=/dev/mapper/dusty P=/dev/ram1 D=/dev/mapper/disk
dmsetup create dusty --table "0 $S dust /dev/ram0 0 512"
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
$DD if=/tmp/all of=$M bs=64k oflag=direct conv=notrunc 2>/dev/null
for sector in 700 4001 4002 30000; do dmsetup message dusty 0 addbadblock $sector; done
dmsetup message dusty 0 enable
ok "a volume" adopt $M $P
# nbd notes the bad sectors as lost.
ok "is served over nbd" serve /dev/nbd0 $M $P
ok "a bad sector is an error" refused get /dev/nbd0 700 1 /tmp/b
ok "and noted" test "$(lost dusty)" = 1
ok "the server ends" unserve /dev/nbd0
ok "stock tables" stock disk $M $P
ok "note nothing: the disk itself is the witness" test "$(dmsetup table disk | wc -l)" = 1
ok "a read fails" refused get $D 700 1 /tmp/b
pattern Z 1 >/tmp/z
ok "a write is taken by the disk" put /tmp/z $D 700
get $D 700 1 /tmp/b
ok "and reads back" cmp /tmp/z /tmp/b
ok "a look finds the others" says_also "^3 sectors" dm-remap message dusty verify 0+$S
ok "nothing is noted" test "$(lost dusty)" = 0
ok "a move takes what can be read along" dm-remap message dusty remap 4001
ok "two sectors are lost then" test "$(lost dusty)" = 2
ok "and errors of the table" wait_for table_has disk "^4001 2 error"
ok "the server ends" end_stock
ok "the device is removed" dm-remap stock remove disk
# Back to nbd: what was overwritten while the kernel carried is not hidden by an old note.
ok "is served over nbd again" serve /dev/nbd0 $M $P
get /dev/nbd0 700 1 /tmp/b
ok "what was written is there" cmp /tmp/z /tmp/b
ok "what is lost is lost" refused get /dev/nbd0 4001 1 /tmp/b
get /dev/nbd0 4003 5 /tmp/b; $DD if=/tmp/all of=/tmp/c bs=512 skip=4003 count=5 2>/dev/null
ok "what moved is there" cmp /tmp/b /tmp/c
ok "the server ends" unserve /dev/nbd0

# A volume with sectors that are known to be lost, of which the main device would give something.
$DD if=/tmp/all of=/dev/ram2 bs=64k oflag=direct conv=notrunc 2>/dev/null
printf '0x0 + 1\n0x0 0x8000 +\n0x8000 0x200 -\n0x8200 0x1ff7e00 +\n' >/tmp/map
ok "a volume of a rescue" adopt /dev/ram2 /dev/ram3 --map /tmp/map
ok "stock tables once, for boot" dm-remap stock assemble /dev/ram2 --spare /dev/ram3 --mapper rescued
ok "what is lost is an error" refused get /dev/mapper/rescued 64 1 /tmp/b
ok "for writes too" refused put /tmp/z /dev/mapper/rescued 64
ok "what is not can be read" get /dev/mapper/rescued 65 8 /tmp/b
ok "assembled again: as it is" dm-remap stock assemble /dev/ram2 --spare /dev/ram3 --mapper rescued
ok "a server takes it over" stock rescued /dev/ram2 /dev/ram3
ok "a message heals it" dm-remap message ram2 heal 64
ok "so it can be written" put /tmp/z /dev/mapper/rescued 64
ok "the server ends" end_stock
ok "the device is removed" dm-remap stock remove rescued
dmsetup remove dusty
finish
