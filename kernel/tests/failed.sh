#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The owner's code panics, on request: the machine and the fast lane go on, nothing hangs, no byte is lost or invented, and a new table serves again.
. "$(dirname "$0")/lib.sh"
begin
main=/dev/ram0 spare=/dev/ram1
M=/dev/mapper/flawed
D=/dev/mapper/r
table="0 $S dm-remap $M $spare"
flaws="1000 1 2001 1"
bad_disk flawed $main $flaws
ok "a volume" dmsetup create r --table "$table"
F=/sys/block/$(dmsetup info -c --noheadings -o blkdevname r)/remap
for letter in A B C; do pattern $letter 8 >/tmp/$letter; done
reads() { get $D $(($2 * 8)) 8 /tmp/b && cmp -s /tmp/b /tmp/$1; } # letter, block
writes() { put /tmp/$1 $D $(($2 * 8)); }
fail_after() { echo $1 >$F/trigger_failure; } # inputs of the owner
failed() { shows r 'dm-remap Fail$'; }
nudged() { failed || { dmsetup message r 0 verify 0-79 >/dev/null; failed; }; } # it has more to do, until that was enough
serves() { shows r ' v2\.0 '; }
renewed() { dmsetup reload r --table "$table" && dmsetup resume r && soon serves; }
events() { dmsetup info -c --noheadings -o events r; }

ok "a write to a bad sector moves its block" writes A 125
ok "a sector is lost" refused reads A 250
ok "nonsense is refused" refused fail_after soon
before=$(events)
ok "a failure is asked for" fail_after 1
ok "the lost sector is an error" refused reads A 250
ok "the target has failed" soon failed
ok "the log tells where" sh -c "dmesg | grep -q 'remap: [0-9:]*: cannot go on: trigger_failure was set at .*turn.rs:[0-9]'"
ok "who waits for events hears of it" test "$(events)" -gt "$before"
ok "healthy blocks are written" writes C 8
ok "and read" reads C 8
ok "those on the spare are read" reads A 125
ok "and written" writes B 125
ok "and flushed" $DD if=/tmp/B of=$D bs=4096 seek=125 oflag=direct conv=notrunc,fsync
ok "what wants the owner is an error" refused writes A 250
ok "a message is told why" says "error: the target has failed by a mistake of its own" r ping
ok "there are no figures" refused cat $F/state
ok "suspend and resume" sh -c "dmsetup suspend r && dmsetup resume r"
ok "it has failed still" failed
ok "and reads" reads B 125
ok "a new table serves" renewed
ok "and is healthy but for the lost sector" grep -qx degraded $F/state
ok "what was written stays" reads C 8
ok "on the spare too" reads B 125
ok "the lost sector is written" writes A 250
ok "and reads" reads A 250

ok "a failure is asked for" fail_after 2
ok "who waits for the answer of a message is told" says "error: the target has failed" r remap 40000-40800
ok "a new table serves" renewed
ok "what was under way is done" says "remapped sector" r remap 41000

# Writers, of whose blocks half are bad, while others move: the owner fails anywhere between, after so many inputs (or those of the command line).
writer() { # first block
    local i=0
    while [ $i -lt 20 ]; do
        writes B $(($1 + i * 10)) && echo $(($1 + i * 10)) >>/tmp/acknowledged.$1
        i=$((i + 1))
    done
}
checked() { # first block: what was acknowledged is there; of what was not, no other byte than the old and the new ones
    local i=0 at
    touch /tmp/acknowledged.$1
    while [ $i -lt 20 ]; do
        at=$(($1 + i * 10))
        if grep -qx $at /tmp/acknowledged.$1; then
            reads B $at || { echo "block $at was acknowledged"; return 1; }
        elif get $D $((at * 8)) 8 /tmp/b && [ "$(tr -d 'AB' </tmp/b | wc -c)" != 0 ]; then
            echo "block $at has bytes that nobody wrote"; return 1
        fi
        i=$((i + 1))
    done
}
round=0
for after in ${*:-1 3 9 31 80 160 260 400}; do
    base=$((300 + round * 850)) i=0
    while [ $i -lt 80 ]; do writes A $((base + i * 10)); i=$((i + 1)); done
    i=0; while [ $i -lt 40 ]; do flaws="$flaws $(((base + i * 20) * 8 + i % 8)) 1"; i=$((i + 1)); done
    bad_slice_table $S $main $flaws >/tmp/bad.flawed
    dmsetup reload flawed /tmp/bad.flawed && dmsetup resume flawed
    fail_after $after
    for w in 0 1 2 3; do writer $((base + w * 200)) & done
    dmsetup message r 0 remap $(((base + 3) * 8))-$(((base + 200) * 8)) >/dev/null &
    wait
    ok "after $after inputs: it has failed under load" soon nudged
    echo "# acknowledged: $(cat /tmp/acknowledged.* 2>/dev/null | wc -l) of 80"
    ok "a new table serves" renewed
    for w in 0 1 2 3; do ok "acknowledged writes are there" checked $((base + w * 200)); done
    rm -f /tmp/acknowledged.*
    round=$((round + 1))
done
ok "the blocks of the beginning are still counted" test "$(moved r)" -ge 3
ok "and its health is told" says "health_score=" r health

fail_after 1
refused reads A 250
(while [ ! -e /tmp/stop ]; do get $D 0 8 /tmp/c; done) &
writes B 300; reads A 310
dmsetup message r 0 ping
touch /tmp/stop; wait
ok "one that has failed is removed" dmsetup remove r
dmsetup remove flawed
ok "the module goes" modprobe -r dm-remap
finish
