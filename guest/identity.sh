#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A volume knows its main device by what the drive says of itself, whatever is stored on it: a copy on another drive is refused.
. "$(dirname "$0")/lib.sh"
begin
P=/disk/spare
# What each is known by: a world-wide name, a name that the driver makes of the serial number (in hexadecimal digits), a serial number.
for known in scsi:5000c500a1b2c3d4 nvme:44524956452d6e766d65 virtio:DRIVE-virtio; do
    kind=${known%:*}
    M=/disk/$kind O=/disk/${kind}copy
    ok "$kind: a volume" adopt $M $P --force
    $DD if=/dev/urandom of=$M bs=1M count=4 oflag=direct conv=notrunc 2>/dev/null
    $DD if=$M of=$O bs=1M oflag=direct conv=notrunc 2>/dev/null
    dm-remap serve $O --spare $P >/tmp/said 2>&1
    ok "$kind: a copy on another drive is refused" test $? = 4
    sed 's/^/# /' /tmp/said
    ok "$kind: with the reason" grep -qiE "serial number|WWN" /tmp/said
    ok "$kind: which names what was expected" grep -q "${known#*:} was adopted\|${known#*:}-.* was adopted" /tmp/said
    ok "$kind: the drive itself is served" serve /dev/nbd0 $M $P
    ok "$kind: the server ends" unserve /dev/nbd0
done
finish
