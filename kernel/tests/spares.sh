#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Several spares; some that join, leave and take each other's place while the volume is served.
. "$(dirname "$0")/lib.sh"
begin
main=/dev/ram0 A=/dev/ram1 B=/dev/ram2 C=/dev/ram3
bad_disk flawed $main 1000 8 4096 64
M=/dev/mapper/flawed
D=/dev/mapper/r
$DD if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null
whole() { $DD if=$D of=/tmp/b bs=64k iflag=direct 2>/dev/null; cmp /tmp/all /tmp/b; }
ok "a volume on one spare" dmsetup create r --table "0 $S dm-remap $M $A"
ok "is written" $DD if=/tmp/all of=$D bs=64k oflag=direct conv=notrunc
ok "a spare of no line does not join" says "error: $B is not in the table line" r add-spare $B
ok "the only one does not leave" says "error: spare 0 is the volume's only one" r retire-spare 0
ok "a line that names another" sh -c "dmsetup reload r --table '0 $S dm-remap $M $A 2 spare $B' && dmsetup resume r"
ok "the log says that it waits" sh -c "dmesg | grep -q 'waits for the message add-spare'"
ok "nobody wrote to it" cmp -n 33554432 $B /dev/zero
ok "deps shows three devices" sh -c "dmsetup deps r | grep -q '^3 dependencies'"
ok "it joins" says "spare 1 has joined" r add-spare $B
ok "but once" says "error: $B is spare 1" r add-spare $B
ok "all is there" whole
ok "blocks go to both" says "remapped " r remap 8192-12287
ok "all is there" whole
ok "remove, and both are wanted" sh -c "dmsetup remove r && ! dmsetup create r --table '0 $S dm-remap $M $A 2 adopt never'"
dmsetup remove r 2>/dev/null
ok "with both, in whatever order" dmsetup create r --table "0 $S dm-remap $M $B 2 spare $A"
ok "all is there" whole
ok "the first one leaves" says "spare 0 has left the volume" r retire-spare 0
ok "all is there" whole
ok "it does not come back by itself" says "error: $A has left the volume" r add-spare $A
ok "remove" dmsetup remove r
ok "the other is enough" dmsetup create r --table "0 $S dm-remap $M $B"
ok "all is there" whole
# Under load a spare gives its place to another one.
ok "a line with another" sh -c "dmsetup reload r --table '0 $S dm-remap $M $B 2 spare $C' && dmsetup resume r"
i=0
while [ $i -lt 4 ]; do
    (while [ ! -e /tmp/stop ]; do $DD if=/tmp/all of=$D bs=256k skip=$((i * 32)) seek=$((i * 32)) count=32 oflag=direct conv=notrunc,fsync 2>/dev/null || echo x >>/tmp/failed; done) &
    i=$((i + 1))
done
ok "migrate" says "spare 2 has joined and spare 1 has left" r migrate $C
touch /tmp/stop; wait
ok "nobody saw an error" test ! -e /tmp/failed
ok "all is there" whole
ok "remove" dmsetup remove r
$DD if=/dev/urandom of=$B bs=1M count=32 oflag=direct 2>/dev/null
ok "what left is not needed" dmsetup create r --table "0 $S dm-remap $M $C 2 adopt never"
ok "all is there" whole
ok "a line with a spare that holds something is refused" refused dmsetup reload r --table "0 $S dm-remap $M $C 2 spare $B"
ok "the volume goes on" whole
# A spare that fails while it joins.
bad_disk worn $A 0 65535
ok "remove" dmsetup remove r
ok "a spare that cannot be read is refused" refused dmsetup create r --table "0 $S dm-remap $M $C 2 spare /dev/mapper/worn"
dmsetup remove r 2>/dev/null
dmsetup remove worn; dmsetup remove flawed
finish
