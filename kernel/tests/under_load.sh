#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Eight workers write and read back while sectors go bad under them, blocks move, and the device is suspended, reloaded and taken away; two volumes, one of which
# loses its disk; room on the spare that ends under load. Wants nothing but what lib.sh asks for.
. "$(dirname "$0")/lib.sh"
begin
main=/dev/ram0 spare=/dev/ram1
D=/dev/mapper/r
# Worker N writes its own 512 KiB, one pattern after the other, and compares; until /tmp/stop. What it sees goes to /tmp/failed. While there is /tmp/pause
# it holds still before it writes: what goes bad then is lost, and is overwritten next.
worker() { # device, number
    n=0
    while [ ! -e /tmp/stop ]; do
        while [ -e /tmp/pause ]; do touch /tmp/paused.$2; sleep 0.05; done; rm -f /tmp/paused.$2
        from=$(((n * 7 + $2) % 400))
        $DD if=/tmp/all of="$1" bs=64k skip=$from seek=$(($2 * 8)) count=8 oflag=direct conv=notrunc 2>/dev/null || { echo "worker $2: write"; return; }
        $DD if="$1" of=/tmp/seen.$2 bs=64k skip=$(($2 * 8)) count=8 iflag=direct 2>/dev/null || { echo "worker $2: read"; return; }
        $DD if=/tmp/all bs=64k skip=$from count=8 2>/dev/null | cmp -s - /tmp/seen.$2 || { echo "worker $2: contents"; return; }
        n=$((n + 1))
        echo $n >/tmp/rounds.$2
    done
}
paused() { [ "$(ls /tmp/paused.* | wc -l)" = 8 ]; }
on() { [ "$(cat /tmp/rounds.$1)" -ge $(($2 + 2)) ]; } # worker, rounds
workers() { rm -f /tmp/stop /tmp/pause /tmp/failed /tmp/rounds.*; touch /tmp/failed; pids=; for w in 0 1 2 3 4 5 6 7; do worker "$1" $w >>/tmp/failed & pids="$pids $!"; done; }
stop() { touch /tmp/stop; wait $pids; cat /tmp/failed; cat /tmp/rounds.* 2>/dev/null | tr '\n' ' ' | sed 's/^/# rounds: /;s/$/\n/'; }
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
$DD if=/tmp/all of=/tmp/all.8 bs=512 count=8 2>/dev/null
$DD if=/tmp/all of=$main bs=1M oflag=direct 2>/dev/null

bad_disk flawed $main 60000 8
ok "a volume" dmsetup create r --table "0 $S dm-remap /dev/mapper/flawed $spare"
auto() { dmsetup status r | sed 's/.*auto_remaps=\([0-9]*\).*/\1/'; } # since the table was loaded
exec 9<$D
workers $D
bad= round=0 by_themselves=0
while [ $round -lt 6 ]; do
    # More sectors go bad, some on borders of blocks.
    touch /tmp/pause; soon paused || echo "no pause" >>/tmp/failed
    n=0; while [ $n -lt 25 ]; do echo "$((round * 1000 + n * 39 + 3)) $((1 + n % 10))"; n=$((n + 1)); done >>/tmp/runs
    sort -n /tmp/runs | tr '\n' ' ' >/tmp/sorted
    bad_slice_table $S $main $(cat /tmp/sorted) >/tmp/bad.flawed
    dmsetup reload flawed /tmp/bad.flawed || echo "reload of the disk" >>/tmp/failed
    dmsetup resume flawed; rm /tmp/pause
    dmsetup message r 0 remap $((round * 1000))-$((round * 1000 + 400)) >/dev/null
    case $round in
    1 | 4) dmsetup suspend r && dmsetup resume r || echo "suspend" >>/tmp/failed ;;
    2) dmsetup suspend --noflush r && dmsetup resume r || echo "suspend --noflush" >>/tmp/failed ;;
    3 | 5)
        by_themselves=$((by_themselves + $(auto)))
        dmsetup reload r --table "0 $S dm-remap /dev/mapper/flawed $spare 2 status v2" && dmsetup resume r || echo "reload" >>/tmp/failed ;;
    esac
    dmsetup remove r 2>/dev/null && echo "it was removed though it is in use" >>/tmp/failed
    dmsetup message r 0 clear $((round * 1000))-$((round * 1000 + 200)) >/dev/null
    round=$((round + 1))
done
for w in 0 1 2 3 4 5 6 7; do soon on $w "$(cat /tmp/rounds.$w)" || echo "worker $w stands still" >>/tmp/failed; done
stop
ok "workers saw no error and no wrong byte" test ! -s /tmp/failed
ok "all of them worked" test "$(cat /tmp/rounds.* | wc -l)" = 8
dmsetup status r
echo "# $((by_themselves + $(auto))) blocks moved by themselves"
ok "blocks moved by themselves, most others by command" test $((by_themselves + $(auto))) -ge 40
ok "the copies are in step" sh -c "dmsetup message r 0 health | grep -q 'copies=5/5'"
ok "verify" says "verified " r verify
$DD if=$D of=/tmp/b bs=1M count=4 iflag=direct 2>/dev/null
exec 9<&-
ok "remove, create" sh -c "dmsetup remove r && dmsetup create r --table '0 $S dm-remap /dev/mapper/flawed $spare'"
$DD if=$D of=/tmp/c bs=1M count=4 iflag=direct 2>/dev/null
ok "every byte is still there" cmp /tmp/b /tmp/c

echo "# messages under way while the device is suspended, its table replaced, its disk failing"
rm -f /tmp/stop3
(while [ ! -e /tmp/stop3 ]; do dmsetup message r 0 remap 52000-58000; dmsetup message r 0 clear 52000-58000; dmsetup message r 0 verify 0-2000; done >/tmp/answers 2>&1) & messenger=$!
n=0
while [ $n -lt 12 ]; do
    dmsetup suspend r; dmsetup status r >/dev/null
    ok "a suspended device says so ($n)" says "error: the device is suspended" r save
    dmsetup resume r
    dmsetup reload r --table "0 $S dm-remap /dev/mapper/flawed $spare" && dmsetup resume r || echo "reload" >>/tmp/failed3
    n=$((n + 1))
done
touch /tmp/stop3; wait $messenger
ok "tables were replaced" test ! -e /tmp/failed3
ok "messages were answered" test "$(grep -c 'remapped\|cleared\|verified\|suspended' /tmp/answers)" = "$(wc -l </tmp/answers)"
ok "remapping is suspended by message" says "remapping suspended" r suspend
dmsetup message r 0 remap 58100 >/tmp/answer & asked=$!
sleep 0.3
dmsetup reload r --table "0 $S dm-remap /dev/mapper/flawed $spare"
dmsetup resume r & resumed=$!
sleep 0.3
dmsetup message r 0 resume
ok "the table is replaced" wait $resumed
wait $asked; echo "# $(cat /tmp/answer)"
ok "the message has an answer" test -s /tmp/answer
echo "0 $S error" | dmsetup reload flawed; dmsetup resume flawed
for at in 0 8000 16000; do get $D $at 8 /tmp/x; done
dmsetup message r 0 remap 0-2000 >/tmp/answer & asked=$!
sleep 0.3
(dmsetup suspend r && dmsetup resume r) & resumed=$!
sleep 0.3
dmsetup reload flawed /tmp/bad.flawed; dmsetup resume flawed
ok "suspended and resumed while its disk fails" wait $resumed
wait $asked; echo "# $(cat /tmp/answer)"
ok "the message has an answer" test -s /tmp/answer

echo "# its table is wiped under load: errors, no hang; what comes after finds a whole volume"
workers $D
sleep 1
ok "wipe" dmsetup wipe_table r
wait $pids
ok "every worker had an error and ended" test "$(wc -l </tmp/failed)" = 8
ok "remove" dmsetup remove r
ok "create" dmsetup create r --table "0 $S dm-remap /dev/mapper/flawed $spare"
ok "verify" says "verified " r verify
ok "remove" sh -c "dmsetup remove r && dmsetup remove flawed"

echo "# created and removed while somebody opens and reads it"
blank $spare
(while [ ! -e /tmp/stop2 ]; do get $D 0 64 /tmp/x; done) 2>/dev/null & reader=$!
n=0
while [ $n -lt 15 ]; do
    dmsetup create r --table "0 $S dm-remap $main $spare" || echo create >>/tmp/failed2
    i=0; until dmsetup remove r 2>/dev/null; do i=$((i + 1)); [ $i -lt 200 ] || { echo remove >>/tmp/failed2; break; }; done
    n=$((n + 1))
done
touch /tmp/stop2; wait $reader
ok "15 times" test ! -e /tmp/failed2

echo "# two volumes, one of which loses its disk"
blank $spare; blank /dev/ram3
bad_disk one $main 60000 8; bad_disk two /dev/ram2 60000 8
ok "a volume on half of the spare" dmsetup create r --table "0 $S remap /dev/mapper/one $spare 0 32768"
ok "and one on the other half" dmsetup create r2 --table "0 $S remap /dev/mapper/two $spare 32768 32768"
workers /dev/mapper/r2
echo "0 $S error" | dmsetup reload one; dmsetup resume one
ok "the one has errors" refused put /tmp/all.8 $D 0
n=0; while [ $n -lt 20 ]; do get $D $((n * 3000)) 8 /tmp/x && echo "a read of nothing" >>/tmp/failed; n=$((n + 1)); done
ok "and says so" soon shows r health=4
ok "nothing of it moved" test "$(moved r)" = 0
mend one $main
ok "it goes on when the disk is there again" soon get $D 0 8 /tmp/x
ok "and says so" soon shows r "health=[01]"
stop
ok "the other saw nothing of that" test ! -s /tmp/failed
ok "remove both" sh -c "dmsetup remove r && dmsetup remove r2 && dmsetup remove one && dmsetup remove two"

echo "# room that ends under load: honest errors, and only there; room makes good"
blank $spare
n=0 bad=; while [ $n -lt 60 ]; do bad="$bad $((40960 + n * 64)) 8"; n=$((n + 1)); done
bad_disk flawed $main $bad
ok "a volume for 40 blocks" dmsetup create r --table "0 $S dm-remap /dev/mapper/flawed $spare 2 max_remaps 40"
workers $D
n=0 refusals=0
while [ $n -lt 60 ]; do put /tmp/all.8 $D $((40960 + n * 64)) 2>/dev/null || refusals=$((refusals + 1)); n=$((n + 1)); done
ok "20 of 60 writes to bad blocks fail" test $refusals = 20
ok "40 blocks moved" test "$(moved r)" = 40
ok "status tells" shows r health=3
stop
ok "workers saw nothing of that" test ! -s /tmp/failed
ok "more room" sh -c "dmsetup reload r --table '0 $S dm-remap /dev/mapper/flawed $spare 2 max_remaps 70' && dmsetup resume r"
n=0 refusals=0
while [ $n -lt 60 ]; do put /tmp/all.8 $D $((40960 + n * 64)) || refusals=$((refusals + 1)); n=$((n + 1)); done
ok "all are taken now" test $refusals = 0
ok "status tells" shows r health=1
ok "remove" sh -c "dmsetup remove r && dmsetup remove flawed"
finish
