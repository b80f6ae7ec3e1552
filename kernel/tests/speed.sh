#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What the target costs beside dm-linear on the same kind of ram disk: requests per second, 4 KiB at random, one at a time. Of use only where the guest's
# clock counts instructions. Wants fio. Checks nothing by itself: "# ratio" lines are for whoever compares.
. "$(dirname "$0")/lib.sh"
begin
ok "linear" dmsetup create l --table "0 $S linear /dev/ram0 0"
ok "a volume" dmsetup create r --table "0 $S dm-remap /dev/ram2 /dev/ram3"
rate() { # device, pattern
    fio --name=x --filename=$1 --rw=$2 --bs=4k --direct=1 --ioengine=psync --runtime=200ms --time_based --output-format=terse --terse-version=3 2>/dev/null |
        awk -F';' -v p=$2 '{print p == "randread" ? $8 : $49}'
}
compare() { # what
    for p in randread randwrite; do
        rate /dev/mapper/l $p >/dev/null; rate /dev/mapper/r $p >/dev/null
        a=0 b=0 n=0
        while [ $n -lt 3 ]; do a=$((a + $(rate /dev/mapper/l $p))); b=$((b + $(rate /dev/mapper/r $p))); n=$((n + 1)); done
        echo "# ratio $1 $p: $((b * 10000 / a)) of 10000 (linear $((a / 3)), volume $((b / 3)) per second)"
    done
}
compare healthy
ok "some blocks elsewhere" says "remapped " r remap 0-15999
compare "one in four remapped"
ok "remove" dmsetup remove r
dmsetup remove l
finish
