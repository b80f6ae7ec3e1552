#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A volume's life: adopt, pass through, bad sectors on write and on read, words, remove, assemble again.
. "$(dirname "$0")/lib.sh"
begin
main=/dev/ram0 spare=/dev/ram1
bad_disk flawed $main 1000 8 2001 1 4096 64
M=/dev/mapper/flawed
D=/dev/mapper/r
ok "a blank spare is adopted" dmsetup create r --table "0 $S dm-remap $M $spare"
ok "and named after the mapped device" sh -c "dmesg | grep -q \"adopted as volume 'r' with\""
dmsetup status r; dmsetup table r
ok "deps shows both devices" sh -c "dmsetup deps r | grep -q '^2 dependencies'"
queue=/sys/block/$(dmsetup info -c --noheadings -o blkdevname r)/queue
ok "a sector can be asked for" grep -qx 512 $queue/logical_block_size

pattern A 4096 >/tmp/a
put /tmp/a $D 8192
get $main 8192 4096 /tmp/b
ok "what is written arrives on the main device" cmp /tmp/a /tmp/b
get $D 8192 4096 /tmp/b
ok "and reads back" cmp /tmp/a /tmp/b
$DD if=/dev/urandom of=/tmp/rnd bs=512 count=777 2>/dev/null
put /tmp/rnd $D 20001
get $D 20001 777 /tmp/b
ok "odd sectors too" cmp /tmp/rnd /tmp/b

pattern C 8 >/tmp/c
ok "the disk below does fail" refused put /tmp/c $M 1000
ok "a write to bad sectors succeeds" put /tmp/c $D 1000
get $D 1000 8 /tmp/b
ok "and reads back" cmp /tmp/c /tmp/b
ok "status counts one block" sh -c "dmsetup status r | grep -q ' v2.0 1/'"
ok "verify names the spare's sector" says "sector 1000 -> spare " r verify 1000
ok "its neighbour is not remapped" says "sector 1008 not remapped" r verify 1008

ok "a bad sector cannot be read" refused get $D 2001 1 /tmp/b
ok "its neighbours can" get $D 2002 6 /tmp/b
ok "nor a run over it" refused get $D 1990 20 /tmp/b
i=0; while [ $i -lt 50 ]; do dmsetup status r | grep -q ' 1/[0-9]* 1/' && break; i=$((i + 1)); done
ok "the lost sector is counted" sh -c "dmsetup status r | grep -q ' 1/[0-9]* 1/'"
pattern D 1 >/tmp/d
ok "a lost sector is overwritten" put /tmp/d $D 2001
get $D 2001 1 /tmp/b
ok "and reads back" cmp /tmp/d /tmp/b
ok "nothing is lost any more" sh -c "dmsetup status r | grep -q ' 2/[0-9]* 0/'"

# A write over good and bad sectors, in one piece: the disk has written some of it when it fails.
$DD if=/dev/urandom of=/tmp/e bs=512 count=200 2>/dev/null
ok "a write over 64 bad sectors among good ones" $DD if=/tmp/e of=$D bs=102400 seek=$((4020 * 512)) oflag=direct,seek_bytes conv=notrunc
$DD if=$D of=/tmp/b bs=102400 skip=$((4020 * 512)) count=1 iflag=direct,skip_bytes 2>/dev/null
ok "reads back in one piece" cmp /tmp/e /tmp/b
get $D 4020 200 /tmp/b
ok "and sector by sector" cmp /tmp/e /tmp/b

ok "ping" says pong r ping
ok "remap" says "remapped sector 300 -> spare sector" r remap 300
ok "remap twice" says "error: sector 300 already remapped" r remap 300
ok "remap out of range" says "error: invalid sector" r remap $S
ok "unknown" says "error: unknown command 'bogus'" r bogus
ok "help" says "Commands: ping" r help
ok "health" says "health_score=" r health
ok "stats" says "total_ios=" r stats
ok "save" says "metadata saved successfully" r save
ok "sync" says "synced " r sync
ok "restore" says "restored " r restore
ok "test_remap" says "Created test remap: bad_sector=400" r test_remap 400 1
ok "clear of one" says "cleared 1 block" r clear 400
ok "verify" says "verified " r verify
ok "metadata_status" says "metadata: enabled" r metadata_status
ok "suspend" says "remapping suspended" r suspend
ok "resume" says "remapping resumed" r resume
dmsetup status r

ok "suspend and resume" sh -c "dmsetup suspend r && dmsetup resume r"
get $D 1000 8 /tmp/b
ok "still there" cmp /tmp/c /tmp/b
ok "reload and resume" sh -c "dmsetup reload r --table '0 $S dm-remap $M $spare 2 status v4' && dmsetup resume r"
get $D 1000 8 /tmp/b
ok "still there after a reload" cmp /tmp/c /tmp/b
ok "the long status line has 31 words" sh -c "test \$(dmsetup status r | wc -w) = 31"
dmsetup status r
ok "a second volume on the same spare is refused" refused dmsetup create r2 --table "0 $S dm-remap /dev/ram2 $spare"
dmsetup remove r2 2>/dev/null

ok "remove" dmsetup remove r
ok "assemble again, by an old name" dmsetup create r --table "0 $S dm-remap-v4 $M $spare"
get $D 1000 8 /tmp/b
ok "what was remapped is still there" cmp /tmp/c /tmp/b
get $D 2001 1 /tmp/b
ok "and what was healed" cmp /tmp/d /tmp/b
get $D 4020 200 /tmp/b
ok "and all of the long one" cmp /tmp/e /tmp/b
get $D 8192 4096 /tmp/b
ok "and what was never moved" cmp /tmp/a /tmp/b
ok "remove again" dmsetup remove r
ok "remove the disk" dmsetup remove flawed
ok "the module goes" modprobe -r dm-remap
ok "and comes" modprobe dm-remap
finish
