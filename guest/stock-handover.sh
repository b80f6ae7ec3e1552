#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# One volume, served over nbd, by stock tables and (where its module is there) by the kernel target, in turn, without conversion.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stock.lib"
begin
ram_disks 2
bad_disk flawed /dev/ram0 1000 8 2001 1 4096 64
M=/dev/mapper/flawed P=/dev/ram1 D=/dev/mapper/disk
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
ok "a volume" adopt $M $P
ok "nbd" serve /dev/nbd0 $M $P
ok "every sector is written, the bad ones too" $DD if=/tmp/all of=/dev/nbd0 bs=64k oflag=direct conv=notrunc
moved=$(remapped flawed)
ok "blocks moved" test "$moved" = 10
ok "while it serves, stock tables are refused" refused dm-remap stock assemble $M --spare $P --mapper disk
ok "the server ends" unserve /dev/nbd0

ok "stock tables" stock disk $M $P
table_of disk
$DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "every byte is there" cmp /tmp/all /tmp/b
pattern A 64 >/tmp/w
ok "written across borders" put /tmp/w $D 4090
$DD if=/tmp/w of=/tmp/all bs=512 seek=4090 conv=notrunc 2>/dev/null
ok "three blocks more move" dm-remap message flawed remap 30000-30020
ok "the server ends" end_stock
ok "the device is removed" dm-remap stock remove disk

if modprobe dm-remap 2>/dev/null; then
    ok "the kernel target" dmsetup create target --table "0 $S dm-remap $M $P 2 adopt never"
    ok "while it is there, stock tables are refused" refused dm-remap stock assemble $M --spare $P --mapper disk
    $DD if=/dev/mapper/target of=/tmp/b bs=64k iflag=direct 2>/dev/null
    ok "every byte is there" cmp /tmp/all /tmp/b
    pattern B 64 >/tmp/w
    ok "written across borders" put /tmp/w /dev/mapper/target 29990
    $DD if=/tmp/w of=/tmp/all bs=512 seek=29990 conv=notrunc 2>/dev/null
    dmsetup message target 0 remap 50000-50020 | sed 's/^/# /'
    ok "the target is removed" dmsetup remove target
    ok "stock tables again" stock disk $M $P
    $DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
    ok "every byte is there" cmp /tmp/all /tmp/b
    ok "the server ends" end_stock
    ok "the device is removed" dm-remap stock remove disk
fi
ok "nbd again" serve /dev/nbd0 $M $P
$DD if=/dev/nbd0 of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "every byte is there" cmp /tmp/all /tmp/b
ok "and as many blocks on the spare, or more" test "$(remapped flawed)" -ge $((moved + 3))
ok "the server ends" unserve /dev/nbd0
ok "the metadata are good" dm-remap metadata check --spare $P
dmsetup remove flawed
finish
