#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The spare that the format's tests keep as it was written once, of a volume of 1 TiB: the kernel serves what it says, changes it, and user space reads that; user
# space changes it, and the kernel serves that. Wants the programs dm-remap, remap-chaos (which has the image)
# and nbd-client in the path.
. "$(dirname "$0")/lib.sh"
begin
modprobe dm-zero
D=/dev/mapper/r
ok "the stored image" remap-chaos golden /dev/ram1
dmsetup create spare --table "0 6144 linear /dev/ram1 0"
P=/dev/mapper/spare
# What its slots hold: by the table blocks 9 and 10 are in slots 100 and 101, block 7 is in slot 102 with its third sector lost.
for slot in 100 101 102; do pattern $((slot - 100)) 8 >/tmp/slot$slot; put /tmp/slot$slot $P $((slot * 8)); done
$DD if=$P of=/tmp/golden bs=64k iflag=direct 2>/dev/null
# The main device has 2^40 bytes: the first 32 MiB are there, the rest is zeroes.
N=2147483648
ok "a main device" sh -c "{ echo 0 $S linear /dev/ram0 0; echo $S $((N - S)) zero; } | dmsetup create main"
pattern M 1024 >/tmp/m; put /tmp/m /dev/mapper/main 0

same() { $DD if=$P of=/tmp/b bs=64k iflag=direct 2>/dev/null; cmp /tmp/golden /tmp/b; }
ok "user space finds it good" dm-remap metadata check --spare $P
ok "a main device of another size is refused" refused dmsetup create r --table "0 $S dm-remap /dev/ram0 $P 2 adopt never"
ok "and the log says why" sh -c "dmesg | tail -5 | grep -q 'dm-remap\|remap'"
ok "a spare that cannot be written is refused" sh -c "dmsetup create locked --readonly --table '0 6144 linear $P 0' && ! dmsetup create r --table '0 $N dm-remap /dev/mapper/main /dev/mapper/locked 2 adopt never'"
dmsetup remove locked
ok "a read-only table is refused" refused dmsetup create r --readonly --table "0 $N dm-remap /dev/mapper/main $P 2 adopt never"
ok "nothing of that wrote to it" same

ok "the kernel serves it" dmsetup create r --table "0 $N dm-remap /dev/mapper/main $P 2 adopt never"
dmsetup status r
for pair in 72:100 80:101; do get $D ${pair%:*} 8 /tmp/b; ok "block $((${pair%:*} / 8)) is in slot ${pair#*:}" cmp /tmp/slot${pair#*:} /tmp/b; done
get $D 56 2 /tmp/b; $DD if=/tmp/slot102 of=/tmp/c bs=512 count=2 2>/dev/null
ok "so is what is left of block 7" cmp /tmp/c /tmp/b
ok "its third sector is lost" refused get $D 58 1 /tmp/b
ok "so are 70000 blocks from 2^20 on: the first" refused get $D 8388608 1 /tmp/b
ok "and the last" refused get $D $((8388608 + 69999 * 8 + 7)) 1 /tmp/b
ok "but none before" get $D 8388607 1 /tmp/b
ok "and none behind" get $D $((8388608 + 70000 * 8)) 1 /tmp/b
get $D 88 8 /tmp/b; $DD if=/tmp/m of=/tmp/c bs=512 count=8 2>/dev/null
ok "block 11 is on the main device" cmp /tmp/c /tmp/b
pattern K 1 >/tmp/k
ok "the lost sector is overwritten" put /tmp/k $D 58
ok "one more block moves" says "remapped sector 800 -> spare sector" r remap 800
ok "remove" dmsetup remove r

ok "user space finds it good" dm-remap metadata check --spare $P
dm-remap map export --spare $P --format dmsetup --main-path /dev/mapper/main --spare-path $P >/tmp/table 2>/tmp/said || cat /tmp/said
ok "and gives the same table" sh -c "grep -q '^72 16 linear .* 800$' /tmp/table && grep -q '^56 8 linear .* 816$' /tmp/table && grep -q '^8388608 560000 error' /tmp/table"
mkdir -p /run/dm-remap; modprobe nbd
# The drive of that time had a name; this one has none.
dm-remap serve /dev/mapper/main --spare $P --force --unix /tmp/r.nbd >/tmp/serve.log 2>&1 & server=$!
soon test -S /tmp/r.nbd || cat /tmp/serve.log
ok "user space serves it" nbd-client -unix /tmp/r.nbd /dev/nbd0
get /dev/nbd0 58 1 /tmp/b
ok "with what the kernel wrote" cmp /tmp/k /tmp/b
pattern U 8 >/tmp/u
put /tmp/u /dev/nbd0 80; put /tmp/u /dev/nbd0 8388608
nbd-client -d /dev/nbd0 >/dev/null 2>&1; kill $server; wait $server
ok "the kernel serves it again" dmsetup create r --table "0 $N dm-remap /dev/mapper/main $P 2 adopt never"
get $D 80 8 /tmp/b
ok "with what user space wrote" cmp /tmp/u /tmp/b
get $D 72 8 /tmp/b
ok "and what it did not" cmp /tmp/slot100 /tmp/b
ok "remove" sh -c "dmsetup remove r && dmsetup remove spare && dmsetup remove main"
finish
