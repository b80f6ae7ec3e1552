#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Many bad sectors at once, moves and suspends under load, memory over many lives.
. "$(dirname "$0")/lib.sh"
begin
main=/dev/ram0 spare=/dev/ram1
D=/dev/mapper/r
i=0 bad=
while [ $i -lt 1000 ]; do bad="$bad $((2048 + i * 40)) 1"; i=$((i + 1)); done
ok "a disk with 1000 bad sectors" bad_disk flawed $main $bad
M=/dev/mapper/flawed
ok "a volume" dmsetup create r --table "0 $S dm-remap $M $spare"
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
ok "all of it is written, 16 writers at once" sh -c '
    i=0; pids=
    while [ $i -lt 16 ]; do
        '$DD' if=/tmp/all of='$D' bs=64k skip=$((i * 32)) seek=$((i * 32)) count=32 oflag=direct conv=notrunc 2>/dev/null & pids="$pids $!"
        i=$((i + 1))
    done
    for p in $pids; do wait $p || exit 1; done'
$DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "every byte reads back" cmp /tmp/all /tmp/b
dmsetup status r
ok "1000 blocks are remapped, nothing is lost" sh -c "dmsetup status r | grep -q ' v2.0 1000/[0-9]* 0/'"
ok "remove, create" sh -c "dmsetup remove r && dmsetup create r --table '0 $S dm-remap $M $spare'"
$DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "every byte is still there" cmp /tmp/all /tmp/b

# Blocks move to and fro, the device is suspended and its table replaced, while eight writers write what is there already.
i=0
while [ $i -lt 8 ]; do
    (n=0; while [ ! -e /tmp/stop ]; do $DD if=/tmp/all of=$D bs=256k skip=$((i * 16)) seek=$((i * 16)) count=16 oflag=direct conv=notrunc 2>/dev/null || echo x >>/tmp/failed; n=$((n + 1)); done) &
    i=$((i + 1))
done
n=0
while [ $n -lt 12 ]; do
    dmsetup message r 0 remap $((n * 4000))-$((n * 4000 + 800)) >/dev/null || echo x >>/tmp/failed
    [ $((n % 3)) = 0 ] && { dmsetup suspend r && dmsetup resume r || echo x >>/tmp/failed; }
    [ $((n % 4)) = 0 ] && { dmsetup reload r --table "0 $S dm-remap $M $spare" && dmsetup resume r || echo x >>/tmp/failed; }
    dmsetup message r 0 clear $((n * 4000))-$((n * 4000 + 400)) >/dev/null || echo x >>/tmp/failed
    n=$((n + 1))
done
touch /tmp/stop; wait
ok "nobody saw an error" test ! -e /tmp/failed
$DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null
ok "every byte is still there" cmp /tmp/all /tmp/b
dmsetup status r
ok "the copies are in step" says "health_score=" r health
ok "remove" dmsetup remove r

memory() { sync; echo 3 >/proc/sys/vm/drop_caches; awk '/^Slab|^VmallocUsed|^Percpu/ {sum += $2} END {print sum}' /proc/meminfo; }
lives() { i=0; while [ $i -lt $1 ]; do dmsetup create r --table "0 $S dm-remap $M $spare" && get $D $((2048 + i * 40)) 1 /tmp/b; dmsetup remove r || return 1; i=$((i + 1)); done; }
lives 5
before=$(memory)
ok "30 more lives" lives 30
after=$(memory)
echo "# memory in KiB before and after: $before $after"
ok "take no memory with them" test $after -lt $((before + 1024))
dmsetup remove flawed
finish
