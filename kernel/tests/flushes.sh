#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Who made durable what, in which order, on two devices: main and spare lie below one dm-log-writes, so that one log tells of both in the order of
# their completions. Every moment of the log at which what is durable changes, and more states that a cut there could leave, are read by the core's recovery and
# compared sector by sector with what may be there; some of them are served by the target and compared again. Three times: both devices have a cache; only the
# main device has one (what is named on the spare must be durable on the main device where that is needed); only the spare has. Wants the program remap-chaos in
# the path.
. "$(dirname "$0")/lib.sh"
N=4096 # sectors of the main device, and of the spare
recorded=/dev/ram0 log=/dev/ram1 replayed=/dev/ram2
D=/dev/mapper/r
bad=
for n in $(seq 0 31); do bad="$bad $((16 + n * 120)) $((1 + n % 9 * 3))"; done

slices() { # device
    bad_slice m $N "$1" $bad
    dmsetup create p --table "0 $N linear $1 $N"
}
block() { echo /sys/block/$(dmsetup info -c --noheadings -o blkdevname "$1"); }
runs() { set -- $bad; while [ $# -gt 1 ]; do printf ' --bad %s+%s' "$1" "$2"; shift 2; done; }

record() { # seed, who has no cache
    $DD if=/tmp/base of=$recorded bs=64k oflag=direct 2>/dev/null
    blank $log
    dmsetup create log --table "0 $((2 * N)) log-writes $recorded $log"
    slices /dev/mapper/log
    [ -z "$2" ] || echo "write through" >"$(block "$2")/queue/write_cache"
    ok "a volume over the log" dmsetup create r --table "0 $N dm-remap /dev/mapper/m /dev/mapper/p 2 adopt force"
    ok "it has a write cache" grep -q "write back" "$(block r)/queue/write_cache"
    # All that made the volume comes before the first mark.
    $DD if=/dev/null of=$D conv=notrunc,fsync 2>/dev/null
    ok "24 steps of writes and flushes" remap-chaos steps write $D --steps 24 --seed "$1" --tell "dmsetup message log 0 mark"
    ok "remove" sh -c "dmsetup remove r && dmsetup remove m && dmsetup remove p && dmsetup remove log"
}

# What a power cut left is on the disk: seed, step.
state() {
    dmsetup create r --table "0 $N dm-remap /dev/mapper/m /dev/mapper/p 2 adopt never" || return 1
    remap-chaos steps check $D --seed "$1" --after "$2" $(runs)
    found=$?
    dmsetup remove r && return $found
}
[ "$1" != state ] || { state "$2" "$3"; exit; }

replay() { # what, torn states of each moment, more for remap-chaos
    mode=$1 torn=$2; shift 2
    ok "$mode: in every state is all there that must be, and nothing else" remap-chaos log-writes sweep $log /tmp/base --seed $seed --torn $torn $(runs) "$@"
    cat /tmp/check.out
    slices $replayed
    ok "$mode: as the target serves it, too" remap-chaos log-writes each $log /tmp/base $replayed --some 4 --run "sh $0 state $seed" "$@"
    cat /tmp/check.out
    dmsetup remove m; dmsetup remove p
}

begin
modprobe dm-log-writes
remap-chaos steps fill $recorded
$DD if=$recorded of=/tmp/base bs=64k count=32 2>/dev/null
# Bytes that nobody wrote to the spare.
yes poison | head -c $((N * 512)) >>/tmp/base
seed=11; record $seed ""
replay "both have a cache" 1
seed=12; record $seed p
replay "only the main device has one" 1 --no-cache $N+$N
seed=13; record $seed m
replay "only the spare has one" 1 --no-cache 0+$N
finish
