#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# One volume, served by the kernel and by user space in turn. Wants the program dm-remap in the path.
. "$(dirname "$0")/lib.sh"
begin
main=/dev/ram0 spare=/dev/ram1
bad_disk flawed $main 1000 8 2001 1 4096 64
M=/dev/mapper/flawed
D=/dev/mapper/r
$DD if=/dev/urandom of=/tmp/all bs=1M count=4 2>/dev/null
ok "the kernel adopts" dmsetup create r --table "0 $S dm-remap $M $spare"
$DD if=/tmp/all of=$D bs=64k oflag=direct conv=notrunc 2>/dev/null
get $D 2001 1 /tmp/b
ok "sectors 1000 to 1007 moved" says "sector 1003 -> spare" r verify 1003
ok "remove" dmsetup remove r
ok "user space finds the metadata good" dm-remap metadata check --spare $spare
mkdir -p /run/dm-remap
dm-remap serve $M --spare $spare --unix /tmp/r.nbd >/tmp/serve.log 2>&1 &
server=$!
i=0; while [ $i -lt 100 ] && [ ! -S /tmp/r.nbd ]; do sleep 0.1; i=$((i + 1)); done
modprobe nbd
ok "user space serves it" nbd-client -unix /tmp/r.nbd /dev/nbd0
$DD if=/dev/nbd0 of=/tmp/b bs=64k count=64 iflag=direct 2>/dev/null
ok "and every byte is there" cmp /tmp/all /tmp/b
pattern U 16 >/tmp/u
ok "user space writes" put /tmp/u /dev/nbd0 4100
nbd-client -d /dev/nbd0 >/dev/null 2>&1
kill $server; wait $server
ok "the kernel serves it again" dmsetup create r --table "0 $S dm-remap $M $spare 2 adopt never"
get $D 4100 16 /tmp/b
ok "with what user space wrote" cmp /tmp/u /tmp/b
ok "remove" dmsetup remove r

# The other way: a volume that user space made, with sectors that are known to be lost.
$DD if=/tmp/all of=/dev/ram2 bs=64k oflag=direct conv=notrunc 2>/dev/null
# Something to know it by: the signature of a partition table.
printf '\252\273\314\335' | $DD of=/dev/ram2 bs=1 seek=440 conv=notrunc,fsync 2>/dev/null
printf '\125\252' | $DD of=/dev/ram2 bs=1 seek=510 conv=notrunc,fsync 2>/dev/null
printf '# mapfile\n0x0 + 1\n0x0 0x8000 +\n0x8000 0x200 -\n0x8200 0x1ff7e00 +\n' | sed 2s/.*/'0x0 + 1'/ >/tmp/map
ok "user space adopts" dm-remap adopt /dev/ram2 --spare /dev/ram3 --map /tmp/map
ok "the kernel serves it" dmsetup create r --table "0 $S dm-remap /dev/ram2 /dev/ram3"
ok "a sector that is lost cannot be read" refused get $D 64 1 /tmp/b
get $D 65 100 /tmp/b; $DD if=/tmp/all of=/tmp/c bs=512 skip=65 count=100 2>/dev/null
ok "the others can" cmp /tmp/b /tmp/c
ok "it is overwritten" put /tmp/u $D 64
ok "nothing is lost any more" sh -c "dmsetup status r | grep -q ' 0/[0-9]* 0/'"
ok "remove" dmsetup remove r
ok "user space finds the metadata good" dm-remap metadata check --spare /dev/ram3
ok "another main device is refused" refused dmsetup create r --table "0 $S dm-remap /dev/ram0 /dev/ram3 2 adopt never"
ok "and the log says why" sh -c "dmesg | tail -5 | grep -q 'not the main device of volume'"
dmsetup remove flawed
finish
