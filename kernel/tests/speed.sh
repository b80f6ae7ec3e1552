#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What the target costs beside dm-linear on the same kind of ram disk: nanoseconds a request, 4 KiB at random, one at a time. Of use only where the
# guest's clock counts instructions: then a nanosecond is one. Wants fio and 768 MiB. Checks nothing of that by itself: "# ratio" lines are for
# whoever compares.
. "$(dirname "$0")/lib.sh"
modprobe brd rd_nr=4 rd_size=131072 max_part=0 2>/dev/null || modprobe brd rd_nr=4 rd_size=131072
S=262144
begin
for disk in 0 2; do $DD if=/dev/zero of=/dev/ram$disk bs=1M count=128 oflag=direct 2>/dev/null; done
ok "linear" dmsetup create l --table "0 $S linear /dev/ram0 0"
ok "a volume" dmsetup create r --table "0 $S dm-remap /dev/ram2 /dev/ram3 2 block_size 512"
cost() { # device, pattern, more for fio...
    device=$1 rw=$2; shift 2
    fio --name=x --filename=$device --rw=$rw --bs=4k --direct=1 --ioengine=psync --runtime=200ms --time_based --norandommap --randrepeat=1 \
        --output-format=terse --terse-version=3 "$@" 2>/dev/null | awk -F';' -v p=$rw '{print int(1000000000 / (p == "randread" ? $8 : $49))}'
}
compare() { # what, more for fio...
    what=$1; shift
    for p in randread randwrite; do
        cost /dev/mapper/l $p "$@" >/dev/null; cost /dev/mapper/r $p "$@" >/dev/null
        a=$(cost /dev/mapper/l $p "$@"); b=$(cost /dev/mapper/r $p "$@")
        echo "# ratio $what $p: $((a * 10000 / b)) of 10000 (linear $a, volume $b ns a request)"
    done
}
compare "healthy, nothing remapped" --offset=112m --size=16m
# Half of each region of 512 blocks.
at=0
while [ $at -lt 200192 ]; do
    dmsetup message r 0 remap $at-$((at + 255)) >/tmp/answer || cat /tmp/answer
    at=$((at + 512))
done
ok "a hundred thousand blocks are elsewhere" sh -c "dmsetup status r | grep -q ' v2.0 100096/'"
compare "healthy, 100,000 remapped" --offset=112m --size=16m
compare "healthy, beside remapped ones" --zonemode=strided --zonesize=128k --zonerange=256k --offset=128k --size=90m
compare "remapped" --zonemode=strided --zonesize=128k --zonerange=256k --offset=0 --size=90m
ok "remove" dmsetup remove r
dmsetup remove l
finish
