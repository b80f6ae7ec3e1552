#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What an admin types who follows docs/kernel.md and docs/stock-tables.md, taken from there: a volume with the target, a write error that vanishes, a lost
# sector that stays an error; the power goes; all of it is there, with the target and by stock tables; the power goes once more. Wants
# /disk/store (512 MiB), the program dm-remap, and losetup, mkfs.ext4, e2fsck, filefrag.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stock.lib"
begin loop ext4
life=$1
. "$(dirname "$0")/walk.lib"
ok "a folder that outlives the guest" store

target_again() {
    ok "the target: the volume is there again" typed kernel try-create
    ok "the target: what was written is there" typed kernel try-mount
    ok "the target: the lost sector is an error" refused typed kernel try-read
    ok "the target: and nothing else of its file" all_but_one
    dmsetup status disk
}

case $life in
1)
    ok "files as disks" typed kernel try-files
    ok "one of which can fail" typed kernel try-disks
    ok "the module, and a mapped device" typed kernel try-create
    ok "a file system and two files" typed kernel try-mkfs
    ok "sectors below a file go bad" typed kernel try-bad-one
    ok "the write error vanishes" typed kernel try-write
    sed 's/^/# /' /tmp/check.out | tail -n 3
    ok "writes of the disk did fail" refused shows disk "errors=W0:"
    ok "and its block is on the spare" test "$(moved disk)" = 1
    ok "a sector of the other file goes bad" typed kernel try-bad-two
    ok "and is an error" refused typed kernel try-read
    ok "the rest of the file can be read" all_but_one
    ok "it is counted" soon lost_there disk 1
    power_cut
    ;;
2)
    ok "the disks, after the power went" typed kernel try-disks
    target_again
    ok "it is still counted" lost_there disk 1
    ok "away with the target, not with the volume" typed kernel try-remove
    stock_again
    ok "sectors below a file go bad" typed kernel try-bad-one
    first_write_fails 2
    power_cut
    ;;
3)
    ok "the disks, after the power went again" typed kernel try-disks
    stock_again
    stop_stock
    target_again
    ok "the lost sector is overwritten" typed kernel try-heal
    ok "and lost no more" lost_there disk 0
    ok "away with the target" typed kernel try-remove
    ok "the file system is whole" whole
    ok "away with the disks" typed kernel try-end
    ;;
esac
finish
