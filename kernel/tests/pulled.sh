#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Main device or spare is pulled under load, and while blocks move, and comes back: errors, no hang, nothing moves for it, and every byte is there afterwards.
# Wants the module scsi_debug.
. "$(dirname "$0")/lib.sh"
begin
modprobe sd_mod
ok "two SCSI disks" modprobe scsi_debug dev_size_mb=32 add_host=2 per_host_store=1 ndelay=300000
host() { basename /sys/bus/pseudo/drivers/scsi_debug/adapter$1/host*; }
disk() { basename /sys/bus/pseudo/drivers/scsi_debug/adapter$1/host*/target*/*/block/sd*; } # of host 0 or 1
there() { [ -b /dev/"$(disk $1)" ]; }
gone() { ! there $1; }
pull() { echo 1 >/sys/block/"$(disk $1)"/device/delete; soon gone $1; }
back() { echo "- - -" >/sys/class/scsi_host/"$(host $1)"/scan; soon there $1; }
soon there 0; soon there 1
D=/dev/mapper/r
table() { echo "0 $S dm-remap /dev/$(disk 0) /dev/$(disk 1)"; }
again() { dmsetup reload r --table "$(table)" && dmsetup resume r; }
all() { $DD if=$D of=/tmp/b bs=256k iflag=direct 2>/dev/null; cmp /tmp/all /tmp/b; }

$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
pattern A 8 >/tmp/a; $DD if=/tmp/all of=/tmp/x bs=512 skip=4000 count=8 2>/dev/null
ok "a volume" dmsetup create r --table "$(table)"
$DD if=/tmp/all of=$D bs=256k oflag=direct conv=fsync,notrunc 2>/dev/null
ok "some blocks elsewhere" says "remapped 100 blocks" r remap 4000-4799
ok "every byte is there" all

# Four writers write what is there already, until they see an error or have done enough.
load() {
    rm -f /tmp/ended /tmp/enough; pids=
    for w in 0 1 2 3; do
        (while $DD if=/tmp/all of=$D bs=64k skip=$((w * 128)) seek=$((w * 128)) count=128 oflag=direct conv=notrunc 2>/dev/null; do [ ! -e /tmp/enough ] || exit 0; done; echo "$w ended" >>/tmp/ended) & pids="$pids $!"
    done
}

for round in 1 2; do
    echo "# round $round: the main device is pulled under load"
    load; sleep 0.5
    pull 0
    wait $pids
    ok "all writers had an error and ended" test "$(wc -l </tmp/ended)" = 4
    ok "status tells" soon shows r health=4
    ok "nothing moved for it" test "$(moved r)" = 100
    get $D 4000 8 /tmp/b
    ok "what is on the spare can be read" cmp /tmp/x /tmp/b
    ok "what is not cannot" refused get $D 0 8 /tmp/b
    ok "it comes back" back 0
    ok "and takes its place" again
    ok "every byte is there" all
    ok "status tells" soon shows r "health=[01]"

    echo "# the spare is pulled under load"
    load; sleep 0.5
    pull 1
    soon test -s /tmp/ended
    ok "what is on the main device can be read" get $D 20000 8 /tmp/b
    ok "and written" put /tmp/b $D 20000
    ok "what is on the spare cannot be read" refused get $D 4000 8 /tmp/b
    ok "a message that needs the spare is answered" says "error:" r remap 9000
    ok "it comes back" back 1
    ok "and takes its place" again
    touch /tmp/enough; wait $pids
    ok "every byte is there" all
    ok "the copies are in step" sh -c "dmsetup message r 0 health | grep -q 'copies=5/5'"
done

for lost in 0 1; do
    echo "# disk $lost is lost while blocks move"
    ok "they begin" dmsetup message r 0 clear
    dmsetup message r 0 remap 0-60000 >/tmp/answer & asked=$!
    soon sh -c 'test $(dmsetup status r | cut -d" " -f5 | cut -d/ -f1) -ge 20'
    pull $lost
    wait $asked
    echo "# $(cat /tmp/answer); $(dmsetup status r)"
    ok "the message has an answer" grep -q "remapped [0-9]* block" /tmp/answer
    ok "it comes back" back $lost
    ok "remove, create" sh -c "dmsetup remove r && dmsetup create r --table '$(table)'"
    ok "every byte is there" all
    ok "verify" says "verified " r verify
    ok "blocks move" says "remapped" r remap 61000-61800
    ok "every byte is there" all
done
ok "remove" dmsetup remove r
ok "the disks go" soon rmmod scsi_debug
finish
