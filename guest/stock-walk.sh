#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What an admin types who follows docs/stock-tables.md, taken from there: a volume by stock tables, a write error that is one only once, a lost sector; the power
# goes; all of it is there. Wants /disk/store (512 MiB), the program dm-remap, and losetup, mkfs.ext4, e2fsck, filefrag.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stock.lib"
begin loop ext4
life=$1
. "$(dirname "$0")/walk.lib"
ok "a folder that outlives the guest" store

if [ "$life" = 1 ]; then
    ok "files as disks" typed kernel try-files
    ok "one of which can fail" typed kernel try-disks
    ok "a volume" typed stock-tables try-adopt
    ok "is served" typed_serve
    ok "a file system and two files" typed kernel try-mkfs
    ok "sectors below a file go bad" typed kernel try-bad-one
    first_write_fails 1
    ok "a sector of the other file goes bad" typed kernel try-bad-two
    ok "and is an error" refused typed kernel try-read
    ok "the rest of the file can be read" all_but_one
    power_cut
fi
ok "the disks, after the power went" typed kernel try-disks
stock_again
ok "zeroes are put on the lost sector" typed stock-tables try-give-up
sed 's/^/# /' /tmp/check.out
ok "nothing is lost" lost_is disk 0
ok "and it is an error no more" typed kernel try-read
stop_stock
ok "away with the disks" typed kernel try-end
finish
