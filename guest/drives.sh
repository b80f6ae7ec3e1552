#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A SCSI and an NVMe drive with medium errors of their own: reads of sector 2000 and writes of sectors 3000 to 3007 fail. Each is
# written all over, pulled while it is served, and put back.
. "$(dirname "$0")/lib.sh"
begin
P=/disk/spare D=/dev/nbd0
for kind in scsi nvme; do
    M=/disk/$kind V=$kind
    $DD if=$M of=/tmp/b bs=512 skip=2000 count=1 iflag=direct 2>/tmp/said
    ok "$kind: the disk says that it has no data" grep -q "No data available" /tmp/said
    $DD if=/dev/urandom of=/tmp/all bs=1M count=8 2>/dev/null
    ok "$kind: a volume" adopt $M $P --force
    ok "$kind: is served" serve $D $M $P
    ok "$kind: a client gets an error" refused get $D 2000 1 /tmp/b
    ok "$kind: for that sector alone" get $D 2001 7 /tmp/b
    ok "$kind: which is lost" counted 1 lost $V
    ok "$kind: is written, where the medium refuses too" $DD if=/tmp/all of=$D bs=64k oflag=direct conv=notrunc
    $DD if=$D of=/tmp/b bs=64k count=128 iflag=direct 2>/dev/null
    ok "$kind: and reads back" cmp /tmp/all /tmp/b
    ok "$kind: two blocks moved" counted 2 remapped $V
    ok "$kind: nothing is lost" counted 0 lost $V

    # Pulled. Nothing may move for it, and what is on the spare is still there.
    node=$(basename "$(readlink -f $M)")
    if [ $kind = scsi ]; then
        echo 1 >/sys/block/$node/device/delete
    else
        pci=$(readlink -f /sys/block/$node/device/device); echo 1 >$pci/remove
    fi
    pattern G 8 >/tmp/g
    ok "$kind: without it writes fail" refused put /tmp/g $D 10000
    get $D 3000 8 /tmp/b; $DD if=/tmp/all of=/tmp/c bs=512 skip=3000 count=8 2>/dev/null
    ok "$kind: what is on the spare can be read" cmp /tmp/b /tmp/c
    wait_for sh -c "dm-remap status $V | grep -q frozen"
    ok "$kind: the volume says that it is frozen" sh -c "dm-remap status $V | tee /tmp/status | grep -q frozen"
    ok "$kind: and nothing moved" counted 2 remapped $V
    ok "$kind: nothing is lost for it" counted 0 lost $V
    ok "$kind: the server ends" unserve $D

    # Put back, perhaps under another name.
    if [ $kind = scsi ]; then
        for host in /sys/class/scsi_host/*/scan; do echo "- - -" >$host; done
        wait_for sh -c "grep -l 'DRIVE-scsi' /sys/block/sd*/device/vpd_pg80"
        node=$(basename "$(dirname "$(dirname "$(grep -l 'DRIVE-scsi' /sys/block/sd*/device/vpd_pg80 | head -1)")")")
    else
        echo 1 >/sys/bus/pci/rescan
        wait_for sh -c "ls -d /sys/block/nvme*n1"
        node=$(basename /sys/block/nvme*n1)
    fi
    wait_for test -b /dev/$node
    ln -sfn /dev/$node $M
    ok "$kind: put back, it is served" serve $D $M $P
    $DD if=$D of=/tmp/b bs=64k count=128 iflag=direct 2>/dev/null
    ok "$kind: with every byte" cmp /tmp/all /tmp/b
    ok "$kind: and takes writes" put /tmp/g $D 10000
    ok "$kind: the server ends in order" unserve $D
done
finish
