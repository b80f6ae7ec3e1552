#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What is refused: with a reason in the log, and nothing left behind.
. "$(dirname "$0")/lib.sh"
begin
M=/dev/ram0 P=/dev/ram1
seen=/tmp/seen
: >$seen
logged() { dmesg >/tmp/log && grep -q "$1" /tmp/log; }
none() { # what, reason in the log, table...
    what=$1 reason=$2; shift 2
    dmesg >>$seen; dmesg -C
    ok "$what is refused" refused dmsetup create r --table "$*"
    ok "  and the log says: $reason" logged "$reason"
    ok "  and nothing is left" sh -c "dmsetup remove r 2>/dev/null; ! dmsetup info r 2>/dev/null | grep -q LIVE"
}
none "one word" "Invalid argument count" "0 $S dm-remap $M"
none "three words for dm-remap-v4" "Invalid argument count" "0 $S dm-remap-v4 $M $P 1"
none "two words for remap" "Invalid argument count" "0 $S remap $M $P"
none "a start that is no number" "Invalid spare start sector" "0 $S remap $M $P x 100"
none "no length" "Invalid spare length" "0 $S remap $M $P 0 0"
none "a slice behind the end" "Spare area exceeds device size" "0 $S remap $M $P 60000 10000"
none "an option that there is not" "unknown option" "0 $S dm-remap $M $P 1 bogus"
none "a missing main device" "Main device lookup failed" "0 $S dm-remap /dev/none $P"
none "a missing spare" "Spare device lookup failed" "0 $S dm-remap $M /dev/none"
none "one device for both" "same device" "0 $S dm-remap $M $M"
none "a line that is too long" "longer than the main device" "0 $((S + 8)) dm-remap $M $P"
none "a line that is too short" "the table line has" "0 $((S - 8)) dm-remap $M $P"
none "a spare of one sector" "the least that works is" "0 $S dm-remap $M $P 0 1"
none "a block size that is no power of two" "does not take" "0 $S dm-remap $M $P 2 block_size 1000"
none "a blank spare that may not be adopted" "holds no volume" "0 $S dm-remap $M $P 2 adopt never"
mkfs.ext4 -q -F $P >/dev/null 2>&1 && none "a spare with a file system" "holds something (ext:" "0 $S dm-remap $M $P"
ok "unless it is forced" dmsetup create r --table "0 $S dm-remap $M $P 2 adopt force"
ok "remove" dmsetup remove r
ok "one slice for a volume" dmsetup create r --table "0 $S remap $M /dev/ram2 0 16384"
ok "another slice of the same spare for another" dmsetup create r2 --table "0 $S remap /dev/ram3 /dev/ram2 16384 16384"
ok "remove both" sh -c "dmsetup remove r && dmsetup remove r2"
# All copies damaged: refused, and left as it is.
for at in 0 1 2 3 4; do
    size=$((S * 512)); place=$((size / 5 * at / 65536 * 65536))
    $DD if=/dev/urandom of=$P bs=4096 seek=$((place / 4096)) count=2 oflag=direct conv=notrunc 2>/dev/null
done
$DD if=$P of=/tmp/before bs=1M iflag=direct 2>/dev/null
none "a spare whose copies are all damaged" "is not blank" "0 $S dm-remap $M $P"
$DD if=$P of=/tmp/after bs=1M iflag=direct 2>/dev/null
ok "and it was not written to" cmp /tmp/before /tmp/after
finish
