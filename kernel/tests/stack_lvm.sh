#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# LVM above a volume, with a snapshot; and a volume whose main device and spare are logical volumes. Wants lvm, mkfs.ext4, e2fsck and the modules dm-snapshot and ext4.
. "$(dirname "$0")/lib.sh"
begin
modprobe -a dm-snapshot ext4
n=0 bad=; while [ $n -lt 60 ]; do bad="$bad $((9000 + n * 300)) 8"; n=$((n + 1)); done
bad_disk flawed /dev/ram0 $bad
ok "a volume" dmsetup create r --table "0 $S dm-remap /dev/mapper/flawed /dev/ram1"
# By name, so that what lies below is not taken for another way to the same.
LV() { command=$1; shift; lvm $command --config 'devices { filter = [ "a|^/dev/mapper/r$|", "r|.*|" ] }' "$@"; }
mkdir -p /mnt /mnt2
ok "a physical volume, a group" eval "LV pvcreate -qq -y /dev/mapper/r && LV vgcreate -qq above /dev/mapper/r"
ok "a logical volume" LV lvcreate -qq -y -Zn -Wn -n data -L 16M above
ok "a file system" mkfs.ext4 -q -F -b 4096 /dev/above/data
ok "is mounted" mount -t ext4 /dev/above/data /mnt
$DD if=/dev/urandom of=/mnt/file bs=64k count=100 conv=fsync 2>/dev/null
sum=$(md5sum </mnt/file)
ok "a snapshot" LV lvcreate -qq -y -s -n before -L 8M above/data
$DD if=/dev/urandom of=/mnt/file bs=64k count=60 conv=notrunc,fsync 2>/dev/null
after=$(md5sum </mnt/file)
ok "blocks moved" test "$(moved r)" -ge 10
ok "the snapshot is mounted" mount -t ext4 -o ro /dev/above/before /mnt2
ok "it holds what was before" test "$(md5sum </mnt2/file)" = "$sum"
ok "the volume is suspended and resumed below them" sh -c "dmsetup suspend r && dmsetup resume r"
ok "the origin holds what came after" test "$(md5sum </mnt/file)" = "$after"
umount /mnt2; umount /mnt
ok "the group is taken down" LV vgchange -qq -an above
ok "remove, create" sh -c "dmsetup remove r && dmsetup create r --table '0 $S dm-remap /dev/mapper/flawed /dev/ram1'"
ok "the group is there again" LV vgchange -qq -ay above
ok "the file system is whole" e2fsck -fn /dev/above/data
ok "the snapshot is merged" LV lvconvert -qq --merge above/before
merged() { ! LV lvs --noheadings -o lv_name above | grep -q before; }
ok "soon" soon merged
ok "is mounted" mount -t ext4 /dev/above/data /mnt
ok "it holds what was before again" test "$(md5sum </mnt/file)" = "$sum"
umount /mnt
ok "all is taken down" eval "LV vgchange -qq -an above && LV vgremove -qq -y -ff above && dmsetup remove r && dmsetup remove flawed"

echo "# on logical volumes"
bad_disk flawed /dev/ram2 $bad
LV() { command=$1; shift; lvm $command --config 'devices { filter = [ "a|^/dev/mapper/flawed$|", "a|^/dev/ram3$|", "r|.*|" ] }' "$@"; }
ok "a group over two disks" eval "LV pvcreate -qq -y /dev/mapper/flawed /dev/ram3 && LV vgcreate -qq below /dev/mapper/flawed /dev/ram3"
ok "a logical volume on each" eval "LV lvcreate -qq -y -Zn -Wn -n main -L 24M below /dev/mapper/flawed && LV lvcreate -qq -y -Zn -Wn -n spare -L 16M below /dev/ram3"
N=$(blockdev --getsz /dev/below/main)
ok "a volume on them" dmsetup create r --table "0 $N dm-remap /dev/below/main /dev/below/spare"
$DD if=/dev/urandom of=/tmp/all bs=1M count=24 2>/dev/null
ok "is written" $DD if=/tmp/all of=/dev/mapper/r bs=256k oflag=direct conv=fsync,notrunc
$DD if=/dev/mapper/r of=/tmp/b bs=256k iflag=direct 2>/dev/null
ok "every byte reads back" cmp /tmp/all /tmp/b
ok "blocks moved" test "$(moved r)" -ge 40
ok "the spare grows below it" LV lvextend -qq -L 20M below/spare
ok "the group does not go while it is used" refused LV vgchange -an below
ok "remove" dmsetup remove r
ok "the group goes and comes" eval "LV vgchange -qq -an below && LV vgchange -qq -ay below"
ok "create" dmsetup create r --table "0 $N dm-remap /dev/below/main /dev/below/spare"
$DD if=/dev/mapper/r of=/tmp/b bs=256k iflag=direct 2>/dev/null
ok "every byte is there" cmp /tmp/all /tmp/b
ok "all is taken down" eval "dmsetup remove r && LV vgchange -qq -an below && LV vgremove -qq -y -ff below && dmsetup remove flawed"
finish
