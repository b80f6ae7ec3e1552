#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What users of earlier modules of this name rely on, and what those modules did wrong: thirteen scenarios, by number. Where another script goes
# deeper, it is named. Wants nothing but what lib.sh asks for.
. "$(dirname "$0")/lib.sh"
begin
main=/dev/ram0 spare=/dev/ram1
D=/dev/mapper/r
two() { dmsetup create r --table "0 $S dm-remap $1 $spare"; }

echo "# 1. forms of the table line (refusals.sh: wrong counts, missing devices, spares too small)"
ok "two words for dm-remap-v4" dmsetup create r --table "0 $S dm-remap-v4 $main $spare"
ok "it answers to that name" test "$(word r 3)" = dm-remap-v4
ok "deps shows both devices" sh -c "dmsetup deps r | grep -q '^2 dependencies'"
ok "remove" dmsetup remove r
blank $spare
ok "four words for remap" dmsetup create r --table "0 $S remap $main $spare 2048 16384"
ok "it answers to that name" test "$(word r 3)" = remap
ok "remove" dmsetup remove r
$DD if=$spare of=/tmp/b bs=512 count=2048 iflag=direct 2>/dev/null
$DD if=$spare of=/tmp/c bs=512 skip=18432 iflag=direct 2>/dev/null
ok "outside of its slice the spare is as it was" sh -c "! cat /tmp/b /tmp/c | tr -d '\\0' | grep -q ."
blank $spare

echo "# 2. unmapped sectors are the main device's, bit for bit; requests over borders"
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
$DD if=/tmp/all of=$main bs=1M oflag=direct 2>/dev/null
ok "a volume" two $main
$DD if=$D of=/tmp/b bs=1M iflag=direct 2>/dev/null
ok "it reads what the main device holds" cmp /tmp/all /tmp/b
for at in 0 40 80 4096 65528; do dmsetup message r 0 remap $at >/dev/null; done
$DD if=$D of=/tmp/b bs=1M iflag=direct 2>/dev/null
ok "and the same with blocks elsewhere, the first and the last among them" cmp /tmp/all /tmp/b
$DD if=/dev/urandom of=/tmp/new bs=512 count=300 2>/dev/null
put /tmp/new $D 7
$DD if=/tmp/new of=/tmp/all bs=512 seek=7 conv=notrunc 2>/dev/null
$DD if=/dev/urandom of=/tmp/new bs=64k count=1 2>/dev/null
$DD if=/tmp/new of=$D bs=64k seek=511 oflag=direct conv=notrunc 2>/dev/null
$DD if=/tmp/new of=/tmp/all bs=64k seek=511 conv=notrunc 2>/dev/null
$DD if=$D of=/tmp/b bs=1M iflag=direct 2>/dev/null
ok "writes over borders arrive, and nothing else changes" cmp /tmp/all /tmp/b
get $main 8 24 /tmp/b; $DD if=/tmp/all of=/tmp/c bs=512 skip=8 count=24 2>/dev/null
ok "between moved blocks they are on the main device" cmp /tmp/c /tmp/b
ok "zeroes over borders" $BLKDISCARD -z -o $((4090 * 512)) -l $((20 * 512)) $D
$DD if=/dev/zero of=/tmp/all bs=512 seek=4090 count=20 conv=notrunc 2>/dev/null
$DD if=$D of=/tmp/b bs=1M iflag=direct 2>/dev/null
ok "are zeroes there and nowhere else" cmp /tmp/all /tmp/b

echo "# 3. messages"
ok "ping" says pong r ping
ok "remap" says "remapped sector 20000 -> spare sector" r remap 20000
ok "verify" says "sector 20000 -> spare" r verify 20000
ok "a duplicate is refused" says "error: sector 20000 already remapped" r remap 20000
ok "clear" says "cleared all remap entries" r clear
ok "then it is not remapped" says "sector 20000 not remapped" r verify 20000
ok "what is unknown is said" says "error: unknown command 'scan'" r scan
for words in "remap" "remap x" "remap 18446744073709551616" "remap 1-" "remap 9-1" "verify $S" "clear 1+0"; do
    ok "'$words' is an error, not a guess" says "error" r $words
done
for words in "test_remap" "test_remap 5" "test_remap 5 x y"; do ok "'$words' is told how" says "Usage: test_remap <bad_sector>" r $words; done
$DD if=$D of=/tmp/b bs=1M iflag=direct 2>/dev/null
ok "nothing of this changed a byte" cmp /tmp/all /tmp/b

echo "# 4. a sector that was moved by hand: the spare has it, the main device keeps what it had"
pattern A 24 >/tmp/a
put /tmp/a $D 1000
slot=$(dmsetup message r 0 remap 1008); slot=${slot##* }
get $spare $slot 8 /tmp/b; $DD if=/tmp/a of=/tmp/c bs=512 count=8 2>/dev/null
ok "its block went along" cmp /tmp/c /tmp/b
pattern B 1 >/tmp/one
put /tmp/one $D 1011
get $spare $((slot + 3)) 1 /tmp/b
ok "a write reaches the spare" cmp /tmp/one /tmp/b
get $D 1011 1 /tmp/b
ok "a read finds it" cmp /tmp/one /tmp/b
get $main 1000 24 /tmp/b
ok "the main device is as it was" cmp /tmp/a /tmp/b
$DD if=/tmp/one of=/tmp/a bs=512 seek=11 conv=notrunc 2>/dev/null
get $D 1000 24 /tmp/b
ok "the neighbours are as they were" cmp /tmp/a /tmp/b
ok "remove" dmsetup remove r

echo "# 5. dm-flakey that refuses writes, dm-error that refuses all"
modprobe -a dm-flakey dm-zero
blank $spare
$DD if=/tmp/all of=$main bs=1M oflag=direct 2>/dev/null
printf '%s\n' "0 2048 linear $main 0" "2048 64 flakey $main 2048 0 600 1 error_writes" "2112 64 error" "2176 $((S - 2176)) linear $main 2176" >/tmp/table
ok "a disk with both" dmsetup create flawed /tmp/table
ok "a volume" two /dev/mapper/flawed
pattern F 176 >/tmp/f
ok "a write over good, refusing and dead sectors succeeds" put /tmp/f $D 2020
get $D 2020 176 /tmp/b
ok "and reads back" cmp /tmp/f /tmp/b
get $main 2048 64 /tmp/b; $DD if=/tmp/all of=/tmp/c bs=512 skip=2048 count=64 2>/dev/null
ok "nothing of it is where the disk refused it" cmp /tmp/c /tmp/b
ok "remove" sh -c "dmsetup remove r && dmsetup remove flawed"

echo "# 6. counters rise by what was injected: 7 blocks on writes, 5 sectors on reads"
blank $spare
bad=; for n in 0 1 2 3 4 5 6; do bad="$bad $((8192 + n * 80)) 8"; done
for n in 0 1 2 3 4; do bad="$bad $((16384 + n * 80 + n)) 1"; done
bad_disk flawed $main $bad
ok "a volume" two /dev/mapper/flawed
ok "nothing is counted yet" shows r " v2.0 0/[0-9]* 0/[0-9]* 0/[0-9]* health=0 errors=W0:R0 auto_remaps=0 manual_remaps=0"
pattern G 8 >/tmp/g
for n in 0 1 2 3 4 5 6; do ok "write $n" put /tmp/g $D $((8192 + n * 80)); done
ok "7 blocks moved by themselves" shows r " v2.0 7/[0-9]* 0/[0-9]* 7/[0-9]* .* auto_remaps=7 manual_remaps=0"
ok "7 failed writes at least" shows r "errors=W\([7-9]\|[1-9][0-9]\):R[0-9]* "
for n in 0 1 2 3 4; do ok "read $n fails" refused get $D $((16384 + n * 80 + n)) 1 /tmp/b; done
ok "5 sectors are lost" soon shows r " v2.0 7/[0-9]* 5/[0-9]* 7/"
ok "one more block by hand" says "remapped sector 0" r remap 0
ok "is counted as such" shows r " v2.0 8/[0-9]* 5/[0-9]* 8/[0-9]* .* auto_remaps=7 manual_remaps=1"

echo "# 7. what moved and what is lost stays so over remove and create (crashes: logwrites, resets.sh)"
ok "remove, create" sh -c "dmsetup remove r && dmsetup create r --table '0 $S dm-remap /dev/mapper/flawed $spare'"
ok "the table is what it was" shows r " v2.0 8/[0-9]* 5/[0-9]* 8/"
for n in 0 6; do get $D $((8192 + n * 80)) 8 /tmp/b; ok "block $n is there" cmp /tmp/g /tmp/b; done
ok "a lost sector is lost" refused get $D 16465 1 /tmp/b

echo "# 8. one to four of five copies damaged (five: refusals.sh)"
place() { echo $((S * 512 / 5 * $1 / 65536 * 65536 / 4096)); }
for copies in "3" "0 4" "1 2 3" "0 1 2 4"; do
    ok "remove" dmsetup remove r
    for n in $copies; do $DD if=/dev/urandom of=$spare bs=4096 seek=$(place $n) count=2 oflag=direct conv=notrunc 2>/dev/null; done
    ok "copies $copies damaged: assembled" two /dev/mapper/flawed
    ok "the table is what it was" shows r " v2.0 8/[0-9]* 5/[0-9]* 8/"
    get $D 8192 8 /tmp/b
    ok "so are the contents" cmp /tmp/g /tmp/b
    ok "the copies were written anew" sh -c "dmsetup message r 0 health | grep -q 'copies=5/5'"
done
ok "remove" sh -c "dmsetup remove r && dmsetup remove flawed"

echo "# 9. slots end: an error, a state, no damage; room makes good"
ok "the least slice" sh -c "! dmsetup create r --table '0 $S remap $main /dev/ram2 0 8'"
least=$(dmesg | sed -n 's/.*the least that works is \([0-9]*\) bytes.*/\1/p' | tail -1)
echo "# a slice of $least bytes"
bad_disk flawed $main 24000 8 24800 8
ok "a volume on it" dmsetup create r --table "0 $S remap /dev/mapper/flawed /dev/ram2 0 $((least / 512 + 64))"
max=$(word r 5); max=${max#*/}
echo "# room for $max blocks"
ok "as many blocks as there are slots" says "remapped $max blocks of $max" r remap 0-$((max * 8 - 1))
ok "one more is refused" says "error: no spare sectors available" r remap 40000
ok "a write to a bad block fails" refused put /tmp/g $D 24000
ok "with 'no space'" sh -c "$DD if=/tmp/g of=$D bs=4096 seek=3000 oflag=direct conv=notrunc 2>&1 | grep -q 'No space left'"
ok "status tells" soon shows r "health=3"
ok "and the log" sh -c "dmesg | grep -q 'no room is left'"
put /tmp/g $D 32000; get $D 32000 8 /tmp/b
ok "everything else goes on" cmp /tmp/g /tmp/b
ok "remove, create" sh -c "dmsetup remove r && dmsetup create r --table '0 $S remap /dev/mapper/flawed /dev/ram2 0 $((least / 512 + 64))'"
ok "the copies are whole: no slot lies on them" sh -c "dmsetup message r 0 health | grep -q 'copies=5/5'"
ok "all is where it was" says "verified " r verify 0-$((max * 8 - 1))
ok "room is made" says "cleared 1 block" r clear 0
ok "the write succeeds" put /tmp/g $D 24000
get $D 24000 8 /tmp/b
ok "and reads back" cmp /tmp/g /tmp/b
ok "remove" sh -c "dmsetup remove r && dmsetup remove flawed"

echo "# 10. 10, 100, 1000 bad sectors at once: reads honest, writes invisible"
for count in 10 100 1000; do
    bad= n=0; while [ $n -lt $count ]; do bad="$bad $((2049 + n * 40)) 1"; n=$((n + 1)); done
    bad_disk flawed $main $bad
    $DD if=/tmp/all of=$main bs=1M oflag=direct 2>/dev/null
    blank $spare
    two /dev/mapper/flawed
    $DD if=$D of=/tmp/b bs=512 skip=2048 count=$((count * 40)) iflag=direct conv=noerror,sync 2>/tmp/said
    ok "$count: as many reads fail" test "$(grep -c 'Input/output error' /tmp/said)" = $count
    ok "as many sectors are lost" soon shows r " v2.0 [0-9]*/[0-9]* $count/"
    # What dd made of it: zeroes where it could not read.
    sed 's/ error$/ zero/' /tmp/bad.flawed | dmsetup create expected
    $DD if=/dev/mapper/expected of=/tmp/c bs=512 skip=2048 count=$((count * 40)) iflag=direct 2>/dev/null
    ok "all others read right" cmp /tmp/c /tmp/b
    dmsetup remove expected
    ok "eight writers see nothing" sh -c '
        pids=
        for i in 0 1 2 3 4 5 6 7; do '$DD' if=/tmp/all of='$D' bs=64k skip=$((i * 64)) seek=$((i * 64)) count=64 oflag=direct conv=notrunc 2>/dev/null & pids="$pids $!"; done
        for p in $pids; do wait $p || exit 1; done'
    $DD if=$D of=/tmp/b bs=1M iflag=direct 2>/dev/null
    ok "every byte reads back" cmp /tmp/all /tmp/b
    ok "$count blocks are on the spare, nothing is lost" shows r " v2.0 $count/[0-9]* 0/[0-9]* $count/"
    ok "remove" sh -c "dmsetup remove r && dmsetup remove flawed"
done

echo "# 11, 12. suspend, resume, reload, create, remove and moves under eight workers: load.sh, under_load.sh"

echo "# 13. the line of 31 words, word by word"
blank $spare
bad_disk flawed $main 1000 8 2001 1
dmsetup create r --table "0 $S dm-remap-v4 /dev/mapper/flawed $spare"
put /tmp/g $D 1000; get $D 1000 8 /tmp/b; get $D 2001 1 /tmp/b
set -- $(dmsetup status r)
echo "# $*"
ok "31 words" test $# = 31
ok "1, 2, 3: start, sectors, target" test "$1 $2 $3" = "0 $S dm-remap-v4"
case $4 in v4.*) v=0 ;; *) v=1 ;; esac
ok "4: version" test $v = 0
flawed=$(dmsetup info -c --noheadings -o major,minor flawed)
ok "5: the main device" test "$5" = "$flawed"
ok "6: the spare" test "$6" = "$(cat /sys/block/ram1/dev)"
ok "7, 8: reads and writes of the client" test "$7" -ge 2 -a "$8" -ge 1
ok "9: blocks that moved" test "$9" -ge 1
ok "10: failed operations of devices" test "${10}" -ge 2
ok "11: blocks on the spare" test "${11}" -ge 1
ok "12: reads and writes together, as 18" test "${12}" = $(($7 + $8)) -a "${18}" = "${12}"
ok "13, 14, 15: times, which are not measured" test "${13} ${14} ${15}" = "0 0 0"
ok "16: bytes of a logical block" test "${16}" = 512
ok "17: room on the spare, in sectors" test "${17}" -gt 1000 -a "${17}" -lt $S
ok "19, 20: to the main device, to the spare" test $((${19} + ${20})) = "${18}"
ok "21: sectors on the spare" test "${21}" = $((${11} * 8))
ok "22, 23: there is no cache" test "${22} ${23}" = "0 0"
ok "24, 25: without and with the owner" test "${24}" -ge 0 -a "${25}" -ge 2
ok "26: nothing is scanned" test "${26}" = 0
ok "27: health in percent" test "${27}" -le 80 -a "${27}" -ge 20
ok "28: entries" test "${28}" -ge 2
ok "29: no cache" test "${29}" = 0
ok "30, 31: state, mode" test "${30} ${31}" = "operational real"
dmsetup message r 0 suspend >/dev/null
ok "30: suspended" test "$(word r 30)" = maintenance
ok "remove" sh -c "dmsetup remove r && dmsetup remove flawed"
finish
