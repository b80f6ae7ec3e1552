#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The process that serves is killed again and again, at any moment, while blocks move to and fro under a client that verifies what it wrote. Then
# both of its processes are, and a device that stands still is resumed by whoever starts next. Arguments: how many kills, and places of the client.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stock.lib"
kills_wanted=${1:-25} places=${2:-200}
apart=$((7400 / places))
begin
ram_disks 2
M=/dev/ram0 P=/dev/ram1 D=/dev/mapper/disk V=ram0
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
$DD if=/tmp/all of=$M bs=64k oflag=direct conv=notrunc 2>/dev/null
# Something to know it by.
mkfs.ext4 -q -F $M; $DD if=$M of=/tmp/all bs=1M 2>/dev/null
ok "a volume" adopt $M $P
ok "is served" stock disk $M $P

# A client of $places places, one sector each, who knows what he wrote where.
client() {
    round=0
    while [ ! -e /tmp/enough ]; do
        round=$((round + 1))
        n=0
        while [ $n -lt $places ]; do
            at=$((8192 + n * apart))
            yes "$round $n" | head -c 512 >/tmp/w
            put /tmp/w $D $at || { echo "write $round of $n failed" >>/tmp/wrong; return; }
            get $D $at 1 /tmp/r || { echo "read $round of $n failed" >>/tmp/wrong; return; }
            cmp -s /tmp/w /tmp/r || { echo "place $n does not hold round $round" >>/tmp/wrong; return; }
            n=$((n + 1))
        done
        n=0
        while [ $n -lt $places ]; do
            yes "$round $n" | head -c 512 >/tmp/w
            get $D $((8192 + n * apart)) 1 /tmp/r
            cmp -s /tmp/w /tmp/r || { echo "place $n lost round $round" >>/tmp/wrong; return; }
            n=$((n + 1))
        done
        echo $round >/tmp/rounds
    done
}
another_server() { pid_now=$(server_of $1) && [ -n "$pid_now" ] && [ "$pid_now" != $2 ]; } # volume, the one before
mover() {
    n=0
    while [ ! -e /tmp/enough ]; do
        at=$((8192 + n * 997 % 7400))
        dm-remap message $V remap $at+600 >/dev/null 2>&1
        dm-remap message $V clear $at+600 >/dev/null 2>&1
        n=$((n + 1))
    done
}
rm -f /tmp/enough /tmp/wrong
client & client=$!
mover & mover=$!
kills=0 stood=0
while [ $kills -lt $kills_wanted ]; do
    # Any moment of a move: they take a few hundredths of a second.
    sleep 0.$((kills * 7 % 10))$((kills * 3 % 10))
    pid=$(server_of $V 2>/dev/null) || continue
    [ -n "$pid" ] && kill -9 $pid 2>/dev/null || continue
    kills=$((kills + 1))
    dmsetup info disk | grep -q SUSPENDED && stood=$((stood + 1))
    wait_for another_server $V $pid || { echo "no fresh server" >>/tmp/wrong; break; }
done
echo "# killed $kills times, $stood of them while it stood still"
touch /tmp/enough
wait $client $mover
ok "killed so often" test $kills = $kills_wanted
ok "the client went on" test "$(cat /tmp/rounds)" -ge 1
ok "and found every byte" sh -c "! cat /tmp/wrong"
ok "the log of the server tells" sh -c "test \$(grep -c 'started again' /tmp/stock.log) = $kills_wanted"
ok "the device carries" sh -c "dmsetup info disk | grep -q ACTIVE"
ok "everything comes home" dm-remap message $V clear
ok "all other bytes are as they were" sh -c ". /tree/kernel/tests/lib.sh; get $D 0 8192 /tmp/b; cmp -n \$((8192 * 512)) /tmp/all /tmp/b"

# Both at once, in the middle of moves, until the device stands still.
tries=0
while [ $tries -lt 200 ]; do
    tries=$((tries + 1))
    dm-remap message $V remap 8192+4000 >/dev/null 2>&1 &
    sleep 0.0$((tries % 10))
    kill -9 $guard $(server_of $V)
    wait
    if dmsetup info disk | grep -q SUSPENDED; then break; fi
    stock disk $M $P || break
    dm-remap message $V clear >/dev/null 2>&1
done
echo "# after $tries tries the device stood still"
ok "the device stands still" sh -c "dmsetup info disk | grep -q SUSPENDED"
ok "whoever comes next resumes it" dm-remap stock assemble $M --spare $P --mapper disk
ok "it carries" sh -c "dmsetup info disk | grep -q ACTIVE"
round=$(cat /tmp/rounds) n=0 bad=0
while [ $n -lt $places ]; do
    get $D $((8192 + n * apart)) 1 /tmp/r
    yes "$round $n" | head -c 512 | cmp -s - /tmp/r || { yes "$((round + 1)) $n" | head -c 512 | cmp -s - /tmp/r || bad=$((bad + 1)); }
    n=$((n + 1))
done
ok "every place holds what was written last" test $bad = 0
ok "a server takes it over" stock disk $M $P
ok "and ends" end_stock

# Somebody resumes behind our back, by another table: nothing is guessed.
dmsetup table disk >/tmp/table
dmsetup suspend disk; echo "0 $S linear $P 0" | dmsetup reload disk; dmsetup resume disk
ok "a table of somebody else is refused" refused_with "to another place" dm-remap stock assemble $M --spare $P --mapper disk
ok "the device can be removed" dm-remap stock remove disk
ok "and assembled from the metadata" dm-remap stock assemble $M --spare $P --mapper disk
ok "with the same table" sh -c "dmsetup table disk | cmp - /tmp/table"
ok "is removed" dm-remap stock remove disk
finish
