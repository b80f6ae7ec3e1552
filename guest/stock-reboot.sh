#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The power goes while ext4 writes to a stock table and blocks move; the next life assembles the same device from the spare.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stock.lib"
begin
life=$1
M=/disk/main P=/disk/spare D=/dev/mapper/disk V=main
contents() { yes "file $1" | head -c $((20000 + $1 * 700 % 30000)); }
noted() { $DD if=/disk/log bs=512 count=1 iflag=direct 2>/dev/null | head -n 1 | tr -d '\0'; }
if [ $life = 1 ]; then
    ok "a volume" adopt $M $P
    ok "is served" stock disk $M $P
    ok "a file system" mkfs.ext4 -q -F $D
    ok "is mounted" mount -t ext4 $D /mnt
    ok "blocks move" dm-remap message $V remap 2000-4999
    (
        n=0
        while [ $n -lt 1000 ]; do
            n=$((n + 1))
            contents $n >/mnt/$n && sync /mnt/$n || exit
            echo $n | $DD of=/disk/log bs=512 count=1 conv=notrunc,sync oflag=direct 2>/dev/null
        done
    ) &
    # Elsewhere than those.
    (n=0; while :; do dm-remap message $V remap $((6000 + n * 811 % 50000))+800; dm-remap message $V clear $((6000 + n * 811 % 50000))+800; n=$((n + 1)); done) >/dev/null 2>&1 &
    wait_for test -e /mnt/30
    sleep 0.3
    power_cut
fi
ok "assembled for boot" dm-remap stock assemble $M --spare $P --mapper disk
ok "is mounted" mount -t ext4 $D /mnt
until=$(noted)
echo "# $until files were noted"
whole() { n=1; while [ $n -le $until ]; do contents $n | cmp - /mnt/$n || return 1; n=$((n + 1)); done; }
ok "files were noted" test "$until" -ge 20
ok "what was synchronised is there" whole
ok "a server takes it over" stock disk $M $P
ok "blocks are on the spare" test "$(remapped main)" -gt 100
ok "is unmounted" umount /mnt
ok "the file system is whole" e2fsck -fn $D
ok "the server ends" end_stock
ok "the device is removed" dm-remap stock remove disk
ok "the metadata are good" dm-remap metadata check --spare $P
finish
