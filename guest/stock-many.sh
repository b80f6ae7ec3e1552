#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A thousand bad sectors at once; and tables of a hundred thousand segments and of twice as many (left out with the argument
# "fewer"), which the kernel must take.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stock.lib"
begin
ram_disks 1
scsi_disk 8000 1000
P=/dev/ram0 V=${M##*/} D=/dev/mapper/disk
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
$DD if=/tmp/all of=$M bs=64k oflag=direct conv=notrunc 2>/dev/null
ok "a volume" adopt $M $P --policy remap-only
ok "is served" stock disk $M $P
ok "a read of all of it fails" refused $DD if=$D of=/dev/null bs=1M skip=3 count=3 iflag=direct
# The kernel does not tell of every failed request: a look finds the others.
dm-remap message $V verify 7900-9100 | sed 's/^/# /'
ok "a thousand sectors are lost" wait_for lost_is $V 1000
ok "they are errors of the table" wait_for error_sectors_are disk 1000
dm-remap status $V | grep -E 'mapper|state' | sed 's/^/# /'
get $D 0 8000 /tmp/b; head -c $((8000 * 512)) /tmp/all >/tmp/c
ok "what is before them can be read" cmp /tmp/b /tmp/c
get $D 9000 1000 /tmp/b; $DD if=/tmp/all of=/tmp/c bs=512 skip=9000 count=1000 2>/dev/null
ok "and what is behind" cmp /tmp/b /tmp/c
ok "zeroes are put on all" says_also "^1000 sectors" dm-remap message $V heal 8000-8999
ok "nothing is lost" test "$(lost $V)" = 0
get $D 8000 1000 /tmp/b
ok "they are zeroes" sh -c "head -c 512000 /dev/zero | cmp - /tmp/b"
ok "the server ends" end_stock
ok "the device is removed" dm-remap stock remove disk
rm -f /tmp/all /tmp/b /tmp/c

# Every second block of the first 100000 is lost.
D=/dev/mapper/many
modprobe loop
truncate -s 1G /tmp/large; truncate -s 4G /tmp/roomy
M=$(losetup -f); losetup $M /tmp/large
P=$(losetup -f); losetup $P /tmp/roomy
printf '\252\273\314\335' | $DD of=$M bs=1 seek=440 conv=notrunc 2>/dev/null
printf '\125\252' | $DD of=$M bs=1 seek=510 conv=notrunc 2>/dev/null
awk 'BEGIN { for (i = 0; i < 50000; i++) print i * 16 + 8 }' >/tmp/list
ok "a volume with 50000 lost sectors" adopt $M $P --map /tmp/list --map-format list
before=$(cut -d' ' -f1 /proc/uptime)
ok "is assembled" dm-remap stock assemble $M --spare $P --mapper many
after=$(cut -d' ' -f1 /proc/uptime)
echo "# $(dmsetup table many | wc -l) segments, assembled in $(awk "BEGIN {print $after - $before}") s"
ok "a hundred thousand segments" test "$(dmsetup table many | wc -l)" = 100001
ok "the last lost one is an error" refused get $D 799992 1 /tmp/b
ok "its neighbours are not" sh -c ". /tree/kernel/tests/lib.sh; get $D 799984 8 /tmp/b && get $D 799993 8 /tmp/b"
ok "a server takes it over" stock many $M $P
before=$(cut -d' ' -f1 /proc/uptime)
ok "a block moves" dm-remap message ${M##*/} remap 1000000
ok "and is in the table" wait_for segments_are many 100003
after=$(cut -d' ' -f1 /proc/uptime)
dm-remap status ${M##*/} | grep mapper | sed 's/^/# /'
ok "the server ends" end_stock
ok "the device is removed" dm-remap stock remove many
losetup -d $P
if [ "${1-}" = fewer ]; then
    losetup -d $M
    finish
fi

# Every second block of the first 200000 is on the spare: more segments than any disk that is worth keeping has.
rm /tmp/roomy; truncate -s 4G /tmp/roomy
P=$(losetup -f); losetup $P /tmp/roomy
ok "a volume" adopt $M $P --force
awk_entries='/"entries": \[\]/ {
    print "  \"entries\": ["
    for (i = 0; i < 100000; i++)
        printf "{\"block\": %d, \"count\": 1, \"state\": \"remapped\", \"slot\": {\"spare\": 0, \"index\": %d}, \"lost\": \"0x0\", \"cause\": \"manual\", \"stale\": false, \"errors\": 0, \"time\": 1796119132}%s\n", i * 2 + 1, i + 100000, i < 99999 ? "," : ""
    print "  ],"; next
} { print }'
dm-remap metadata dump --spare $P | awk "$awk_entries" >/tmp/dump
ok "with 100000 remapped blocks" dm-remap metadata restore /tmp/dump --spare $P --force
rm /tmp/dump
uptime() { cut -d' ' -f1 /proc/uptime; }
took() { awk "BEGIN {print $(uptime) - $1}"; } # since
# Of the kernel's own, in KiB; what is only kept for later is let go first.
kernel_memory() { echo 3 >/proc/sys/vm/drop_caches; awk '/^(Slab|VmallocUsed):/ {n += $2} END {print n}' /proc/meminfo; }
empty=$(kernel_memory)
since=$(uptime)
ok "it is assembled" dm-remap stock assemble $M --spare $P --mapper many
echo "# assembled in $(took $since) s"
ok "two hundred thousand segments" segments_are many 200001
echo "# the table takes $(($(kernel_memory) - empty)) KiB of the kernel's memory"
dmsetup table many >/tmp/table
since=$(uptime)
ok "the kernel takes it a second time" dmsetup reload many /tmp/table
echo "# loaded in $(took $since) s; with two tables $(($(kernel_memory) - empty)) KiB"
since=$(uptime)
ok "and into service" dmsetup resume many
echo "# resumed in $(took $since) s"
rm /tmp/table
ok "a server takes it over" stock many $M $P
ok "a block moves" dm-remap message ${M##*/} remap 2000000
ok "and is in the table" wait_for segments_are many 200003
dm-remap status ${M##*/} | grep mapper | sed 's/^/# /'
ok "the server ends" end_stock
ok "the device is removed" dm-remap stock remove many
losetup -d $M; losetup -d $P
finish
