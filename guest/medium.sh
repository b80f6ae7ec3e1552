#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A SCSI disk (the kernel's own simulated one) that cannot give eight of its sectors, and says so as a medium error. What is written there is
# taken, and cannot be read either.
. "$(dirname "$0")/lib.sh"
begin sd_mod
ram_disks 1
modprobe scsi_debug dev_size_mb=32 opts=2 medium_error_start=2000 medium_error_count=8
wait_for sh -c 'ls -d /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/*' || exit 1
M=/dev/$(basename /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/*)
P=/dev/ram0 D=/dev/nbd0 V=${M##*/}
wait_for test -b $M
$DD if=$M of=/tmp/b bs=512 skip=2000 count=1 iflag=direct 2>/tmp/said
ok "the disk says that it has no data" grep -q "No data available" /tmp/said
ok "a volume" adopt $M $P
ok "is served" serve $D $M $P
$DD if=$D of=/tmp/b bs=512 skip=2000 count=1 iflag=direct 2>/tmp/said
ok "a client gets an error" grep -q "Input/output error" /tmp/said
ok "its neighbours can be read" sh -c ". /tree/kernel/tests/lib.sh; get $D 1992 8 /tmp/b && get $D 2008 8 /tmp/b"
ok "a run over it cannot" refused get $D 1996 8 /tmp/b
ok "the list names what is lost" sh -c "dm-remap map list $V | tee /tmp/list | grep -q 2000"
ok "nothing moved for a read" counted 0 remapped $V
pattern W 8 >/tmp/w
ok "a write to the bad sectors succeeds" put /tmp/w $D 2000
get $D 2000 8 /tmp/b
ok "and reads back" cmp /tmp/w /tmp/b
ok "from the spare" counted 1 remapped $V
ok "nothing is lost any more" counted 0 lost $V
ok "remapping is on" sh -c "! dm-remap status $V | grep -i suspended"
ok "the server ends in order" unserve $D
ok "is served again" serve $D $M $P
get $D 2000 8 /tmp/b
ok "with what was written" cmp /tmp/w /tmp/b
ok "the server ends" unserve $D
finish
