#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The power goes while ext4 writes to a volume with bad sectors; what was synchronised is there afterwards. Three lives on the same disks: `main`,
# `spare`, and `log`, where the number of each file is noted once it is synchronised.
. "$(dirname "$0")/lib.sh"
begin
life=$1
M=/disk/main P=/disk/spare D=/dev/nbd0
# Bad in every life: refused by the server's own layer below the volume.
bad="main:bad=sectors:2000-2007;9000;20000-20063;40000-40003"
contents() { yes "file $1 of life $2" | head -c $((20000 + $1 * 700 % 30000)); }
noted() { $DD if=/disk/log bs=512 skip=$1 count=1 iflag=direct 2>/dev/null | head -n 1 | tr -d '\0'; }

whole() { # life: all files that were noted are whole
    until=$(noted $1)
    [ "${until:-0}" -gt 0 ] || { echo "no file was noted in life $1"; return 1; }
    echo "# life $1 noted $until files"
    n=1
    while [ $n -le $until ]; do
        contents $n $1 | cmp - /mnt/life$1/$n || return 1
        n=$((n + 1))
    done
}

write() { # life: files, one after the other, noted when they are synchronised
    mkdir -p /mnt/life$1; sync
    n=0
    while :; do
        n=$((n + 1))
        contents $n $1 >/mnt/life$1/$n && sync /mnt/life$1/$n || return
        echo $n | $DD of=/disk/log bs=512 seek=$1 count=1 conv=notrunc,sync oflag=direct 2>/dev/null
        [ $n -lt 150 ] || break
    done
    # It is dark before long, and somebody is writing then.
    while cp /mnt/life$1/1 /mnt/life$1/more; do sync; done
}

if [ $life = 1 ]; then
    ok "a volume" adopt $M $P
else
    ok "life $life: the metadata are good, or a copy is behind" sh -c "dm-remap metadata check --spare $P >/tmp/said; test \$? -le 1"
fi
ok "life $life: is served" serve $D $M $P --drill "$bad"
if [ $life = 1 ]; then
    ok "a file system" mkfs.ext4 -q -F $D
fi
ok "life $life: is mounted" mount -t ext4 $D /mnt
earlier=1
while [ $earlier -lt $life ]; do
    ok "what life $earlier synchronised is there" whole $earlier
    earlier=$((earlier + 1))
done
if [ $life -lt 3 ]; then
    write $life &
    # At least a few; then the power goes in the middle of one.
    wait_for sh -c "test -e /mnt/life$life/$((10 * life))"
    ok "life $life: blocks moved" test "$(remapped main)" -gt 0
    sleep 0.$((life * 3))
    power_cut
fi
ok "is unmounted" umount /mnt
ok "the file system is whole" e2fsck -fn $D
ok "nothing is lost" counted 0 lost main
ok "the server ends in order" unserve $D
ok "the metadata are good" dm-remap metadata check --spare $P
finish
