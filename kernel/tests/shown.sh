#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What is shown outside of dmsetup: sysfs, debugfs, module parameters; what can be set there.
. "$(dirname "$0")/lib.sh"
begin
main=/dev/ram0 spare=/dev/ram1
bad_disk flawed $main 1000 8 2001 1
M=/dev/mapper/flawed
D=/dev/mapper/r
parameters=/sys/module/dm_remap/parameters
ok "a volume" dmsetup create r --table "0 $S dm-remap $M $spare"
dm=$(dmsetup info -c --noheadings -o blkdevname r)
F=/sys/block/$dm/remap
is() { got=$(cat $F/$1); echo "$1 is $got"; [ "$got" = "$2" ]; } # figure, value
ok "every file has one line" sh -c "for f in $F/*; do test \$(wc -l <\$f) = 1 || exit 1; done"
ok "it is healthy" is state healthy
ok "all copies are in step" is copies_in_step 5
ok "block size" is block_size_bytes 4096
free=$(cat $F/spare_free_blocks)
ok "no slot is taken" is spare_blocks $free
i=0; while [ $i -lt 10 ]; do $DD if=$D of=/tmp/b bs=1536 skip=$i count=1 iflag=direct 2>/dev/null; i=$((i + 1)); done
ok "ten reads are counted" is reads 10
ok "and their sectors" is read_sectors 30
ok "all of them took the fast lane" is fast_parts 10
pattern A 8 >/tmp/a
for at in 1000 1001; do $DD if=/tmp/a of=$D bs=4096 seek=$at oflag=direct conv=notrunc 2>/dev/null; done
ok "two writes are counted" is writes 2
ok "and their sectors" is written_sectors 16
ok "bad sectors are written" $DD if=/tmp/a of=$D bs=4096 seek=125 oflag=direct conv=notrunc
ok "in a write" is writes 3
ok "that the owner handled" is owner_parts 1
ok "one block is remapped" is remapped_blocks 1
ok "by itself" is auto_remaps 1
ok "a slot is taken" is spare_free_blocks $((free - 1))
ok "a device write has failed" test $(cat $F/write_errors) -ge 1
ok "but none of the client" is failed_writes 0
ok "a bad sector cannot be read" refused get $D 2001 1 /tmp/b
ok "which the client saw" is failed_reads 1
i=0; while [ $i -lt 50 ] && [ "$(cat $F/lost_sectors)" = 0 ]; do sleep 0.1; i=$((i + 1)); done
ok "it is lost" is lost_sectors 1
ok "the volume is degraded" is state degraded
$DD if=$D of=/tmp/b bs=4096 skip=125 count=1 iflag=direct 2>/dev/null
ok "what is on the spare is read there" is spare_parts 1
for p in read write; do ok "global_${p}_errors" test "$(cat $parameters/global_${p}_errors)" = "$(cat $F/${p}_errors)"; done
ok "global_auto_remaps" grep -qx 1 $parameters/global_auto_remaps

set_to() { echo "$2" >$F/$1; }
ok "max_remaps is set" set_to max_remaps 1
ok "and is so" is max_remaps 1
ok "no other block moves" says "error: no spare sectors available" r remap 3000
ok "there is a limit no more" set_to max_remaps 0
ok "another block moves" says "remapped sector 3000" r remap 3000
ok "nonsense is refused" refused set_to max_remaps lots
ok "policy is set" set_to policy remap-only
ok "and is so" is policy remap-only
ok "another policy is refused" refused set_to policy none
ok "what only tells cannot be set" refused set_to reads 0
ok "debug_level is set" sh -c "echo 3 >$parameters/debug_level && grep -qx 3 $parameters/debug_level"
echo 1 >$parameters/debug_level
for f in "$F"/*; do while :; do cat "$f" >/dev/null 2>&1 || :; [ -e /tmp/stop ] && break; done & done
i=0; while [ $i -lt 5 ]; do dmsetup suspend r; dmsetup reload r --table "0 $S dm-remap $M $spare"; dmsetup resume r; i=$((i + 1)); done
touch /tmp/stop; wait
ok "the folder stays over suspends and reloads" is remapped_blocks 2
ok "what was written before the table was loaded is not counted" is written_sectors 0

mount -t debugfs none /sys/kernel/debug 2>/dev/null
C=/sys/kernel/debug/dm-remap/remap_control
ok "remap_control lists the volume" grep -q "^$dm: 0 $S dm-remap [0-9:]* 1:1: v2.0 2/" $C
add() { echo "add $1 $2" >$C; }
ok "add of a pair that is free" add /dev/ram2 /dev/ram3
ok "says what to do" grep -qx 'dmsetup create remap-ram2 --table "0 $(blockdev --getsz /dev/ram2) dm-remap /dev/ram2 /dev/ram3"' $C
ok "which works" sh -c "$(head -1 $C)"
ok "add of a pair that is in use is refused" refused add /dev/ram2 /dev/ram3
ok "with the reason" grep -q "^error: /dev/ram2 is in use" $C
ok "and of a file" refused add /proc/version /dev/ram3
ok "and of nothing" refused add /dev/none /dev/ram3
ok "and of one device" refused add $main $main
ok "other words too" refused sh -c "echo bogus >$C"
ok "list" sh -c "echo list >$C"
ok "both are listed" test $(grep -c '^dm-' $C) = 2
ok "remove both" sh -c "dmsetup remove r && dmsetup remove remap-ram2"
ok "their folders are gone" test ! -e $F
ok "the list is empty" test -z "$(cat $C)"
dmsetup remove flawed
ok "the module goes" modprobe -r dm-remap
ok "and remap_control with it" test ! -e $C
finish
