#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A volume without our software: the table that `map export` writes is loaded by the kernel's own targets, and gives the same bytes and the same errors.
. "$(dirname "$0")/lib.sh"
begin
ram_disks 2
bad_disk flawed /dev/ram0 1000 8 4096 64 20000 8 33333 1 50000 1
M=/dev/mapper/flawed P=/dev/ram1 D=/dev/nbd0 T=/dev/mapper/stock
ok "a volume" adopt $M $P
ok "is served" serve $D $M $P
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
# All is written but the blocks of sectors 33333 and 50000.
for run in 0:4166 4167:2083 6251:1941; do
    $DD if=/tmp/all of=$D bs=4096 skip=${run%:*} seek=${run%:*} count=${run#*:} oflag=direct conv=notrunc 2>/dev/null
done
ok "two sectors are lost" sh -c "! dd if=$D of=/tmp/b bs=4096 skip=4166 count=1 iflag=direct; ! dd if=$D of=/tmp/b bs=4096 skip=6250 count=1 iflag=direct"
ok "and counted" counted 2 lost flawed
dm-remap message flawed remap 60000-60100 >/dev/null
moved=$(remapped flawed)
echo "# $moved blocks moved"
dm-remap map export flawed --format dmsetup >/tmp/served
ok "the server ends" unserve $D
ok "the table is written of the spare" sh -c "dm-remap map export --spare $P --format dmsetup --main-path $M --spare-path $P >/tmp/table"
ok "the same as in service" cmp /tmp/served /tmp/table
sed 's/^/# /' /tmp/table | head -30
ok "the kernel takes it" dmsetup create stock /tmp/table
ok "for the whole volume" test "$(blockdev --getsz $T)" = $S
for run in 0:4166 4167:2083 6251:1941; do
    $DD if=$T of=/tmp/b bs=4096 skip=${run%:*} count=${run#*:} iflag=direct 2>/dev/null
    $DD if=/tmp/all of=/tmp/c bs=4096 skip=${run%:*} count=${run#*:} 2>/dev/null
    ok "blocks from ${run%:*} on are the same, byte for byte" cmp /tmp/b /tmp/c
done
ok "a lost sector is an error" refused get $T 33333 1 /tmp/b
ok "the other one too" refused get $T 50000 1 /tmp/b
ok "their neighbours are not" sh -c ". /tree/kernel/tests/lib.sh; get $T 33332 1 /tmp/b && get $T 33334 2 /tmp/b && get $T 50001 7 /tmp/b"
pattern N 16 >/tmp/n
ok "what is written through it" put /tmp/n $T 60000
ok "is there when the kernel lets go" dmsetup remove stock
ok "and the server is back" serve $D $M $P
get $D 60000 16 /tmp/b
ok "byte for byte" cmp /tmp/n /tmp/b
ok "the server ends" unserve $D
dmsetup remove flawed
finish
