#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A main device with two paths: one path fails, then all do, then they come back; and a disk behind them that has bad sectors. Wants the modules
# dm-multipath, dm-round-robin and scsi_debug.
. "$(dirname "$0")/lib.sh"
begin
modprobe -a dm-multipath dm-round-robin sd_mod
# Reads of sectors 4000 to 4009 are medium errors.
ok "a SCSI disk with bad sectors" modprobe scsi_debug dev_size_mb=32 opts=2 medium_error_start=4000 medium_error_count=10
disk() { basename /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/sd*; }
there() { [ -b /dev/"$(disk)" ]; }
soon there
sd=/dev/$(disk)
for path in a b; do dmsetup create path-$path --table "0 $S linear $sd 0"; done
number() { dmsetup info -c --noheadings -o major,minor "$1"; }
ok "two paths" dmsetup create many --table "0 $S multipath 2 queue_mode bio 0 1 1 round-robin 0 2 1 $(number path-a) 1 $(number path-b) 1"
D=/dev/mapper/r
ok "a volume" dmsetup create r --table "0 $S dm-remap /dev/mapper/many /dev/ram1"
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
write() { $DD if=/tmp/all of=$D bs=64k oflag=direct conv=notrunc 2>/dev/null; }
all() { $DD if=$D of=/tmp/b bs=256k iflag=direct 2>/dev/null; cmp /tmp/all /tmp/b; }
paths() { dmsetup status many | grep -o "$(number path-$1) [AF]" | tail -c 2; }

ok "a bad sector cannot be read" refused get $D 4000 1 /tmp/b
ok "nor one of the next block" refused get $D 4009 1 /tmp/b
ok "no path fails for it" test "$(paths a)$(paths b)" = AA
ok "it is lost" soon sh -c 'test "$(dmsetup status r | cut -d" " -f6 | cut -d/ -f1)" -ge 2'
ok "all is written" write
ok "every byte reads back" all
ok "nothing is lost any more" test "$(lost r)" = 0
moved=$(moved r)
ok "what the disk does not read back moved: 2 blocks" test "$moved" = 2

break_path() { echo "0 $S error" | dmsetup reload path-$1 && dmsetup resume path-$1; }
mend_path() { echo "0 $S linear $sd 0" | dmsetup reload path-$1 && dmsetup resume path-$1 && dmsetup message many 0 reinstate_path "$(number path-$1)"; }
echo "# one path fails under load"
(while write; do [ ! -e /tmp/stop ] || exit 0; done; echo x >/tmp/failed) & writer=$!
break_path a
soon sh -c "dmsetup status many | grep -q '$(number path-a) F'"
ok "nobody sees it" all
touch /tmp/stop; wait $writer
ok "nor does the writer" test ! -e /tmp/failed
echo "# all paths fail"
break_path b
ok "a write is an error" refused put /tmp/all $D 0
ok "a read, too" refused get $D 20000 8 /tmp/b
ok "status tells" soon shows r health=4
ok "nothing moved for it" test "$(moved r)" = "$moved"
ok "what is on the spare can be read" get $D 4000 8 /tmp/b
echo "# they come back"
mend_path a; mend_path b
ok "reads go on" soon get $D 20000 8 /tmp/b
ok "status tells" soon shows r "health=[01]"
ok "all is written" write
ok "every byte reads back" all
ok "nothing moved" test "$(moved r)" = "$moved"
ok "remove, create" sh -c "dmsetup remove r && dmsetup create r --table '0 $S dm-remap /dev/mapper/many /dev/ram1'"
ok "every byte is there" all
ok "all is taken down" sh -c "dmsetup remove r && dmsetup remove many && dmsetup remove path-a && dmsetup remove path-b"
ok "the disk goes" soon rmmod scsi_debug
finish
