#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# LUKS above a volume, and a volume whose main device and spare are LUKS devices. Wants cryptsetup, mkfs.ext4, e2fsck and the modules dm-crypt and ext4.
. "$(dirname "$0")/lib.sh"
begin
modprobe -a dm-crypt ext4
n=0 bad=; while [ $n -lt 40 ]; do bad="$bad $((36864 + n * 400)) 8"; n=$((n + 1)); done
printf secret >/tmp/key
luks="--batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --cipher aes-xts-plain64 --key-size 256 --key-file /tmp/key"
mkdir -p /mnt /run/cryptsetup
bad_disk flawed /dev/ram0 $bad
ok "a volume" dmsetup create r --table "0 $S dm-remap /dev/mapper/flawed /dev/ram1"
ok "LUKS on it" cryptsetup luksFormat $luks /dev/mapper/r
ok "is opened" cryptsetup open --key-file /tmp/key /dev/mapper/r secret
ok "a file system" mkfs.ext4 -q -F -b 4096 /dev/mapper/secret
ok "is mounted" mount -t ext4 /dev/mapper/secret /mnt
$DD if=/dev/urandom of=/mnt/file bs=64k count=160 conv=fsync 2>/dev/null
sum=$(md5sum </mnt/file)
ok "blocks moved" test "$(moved r)" -ge 10
umount /mnt
ok "all goes and comes" sh -c "cryptsetup close secret && dmsetup remove r && dmsetup create r --table '0 $S dm-remap /dev/mapper/flawed /dev/ram1' &&
    cryptsetup open --key-file /tmp/key /dev/mapper/r secret"
ok "the file system is whole" e2fsck -fn /dev/mapper/secret
ok "is mounted" mount -t ext4 /dev/mapper/secret /mnt
ok "has its file" test "$(md5sum </mnt/file)" = "$sum"
umount /mnt
ok "all is taken down" sh -c "cryptsetup close secret && dmsetup remove r && dmsetup remove flawed"

echo "# on LUKS devices"
bad_disk flawed /dev/ram2 $bad
ok "LUKS on main and spare" sh -c "cryptsetup luksFormat $luks /dev/mapper/flawed && cryptsetup luksFormat $luks /dev/ram3"
ok "are opened" sh -c "cryptsetup open --key-file /tmp/key /dev/mapper/flawed main && cryptsetup open --key-file /tmp/key /dev/ram3 spare"
N=$(blockdev --getsz /dev/mapper/main)
ok "the spare is not blank behind its cipher" refused dmsetup create r --table "0 $N dm-remap /dev/mapper/main /dev/mapper/spare"
dmsetup remove r 2>/dev/null
ok "it is wiped" $DD if=/dev/zero of=/dev/mapper/spare bs=64k count=256 oflag=direct
ok "a volume on them" dmsetup create r --table "0 $N dm-remap /dev/mapper/main /dev/mapper/spare"
ok "a bad sector behind the cipher cannot be read" refused get /dev/mapper/r $((36864 + 39 * 400 - 32768)) 8 /tmp/b
$DD if=/dev/urandom of=/tmp/all bs=64k count=255 2>/dev/null
ok "is written" $DD if=/tmp/all of=/dev/mapper/r bs=64k oflag=direct conv=fsync,notrunc
$DD if=/dev/mapper/r of=/tmp/b bs=64k count=255 iflag=direct 2>/dev/null
ok "every byte reads back" cmp /tmp/all /tmp/b
ok "blocks moved" test "$(moved r)" -ge 10
ok "all goes and comes" sh -c "dmsetup remove r && cryptsetup close main && cryptsetup close spare &&
    cryptsetup open --key-file /tmp/key /dev/mapper/flawed main && cryptsetup open --key-file /tmp/key /dev/ram3 spare"
ok "create" dmsetup create r --table "0 $N dm-remap /dev/mapper/main /dev/mapper/spare"
$DD if=/dev/mapper/r of=/tmp/b bs=64k count=255 iflag=direct 2>/dev/null
ok "every byte is there" cmp /tmp/all /tmp/b
ok "all is taken down" sh -c "dmsetup remove r && cryptsetup close main && cryptsetup close spare && dmsetup remove flawed"
finish
