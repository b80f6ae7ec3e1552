# SPDX-License-Identifier: GPL-2.0
# What the guest scripts share. Contract: run as root in a guest with dmsetup, dd, cmp, blockdev; the module is found by modprobe. Each check
# prints "ok N - what" or "not ok N - what", the last line is "1..N", the exit code is 0 only if all checks passed.
# A shell may have a dd of its own that gives up direct I/O without a word: the contract asks for that of coreutils.
DD=/usr/bin/dd
checks=0
failed=0

ok() { # what, command...
    what=$1; shift
    checks=$((checks + 1))
    if "$@" >/tmp/check.out 2>&1; then
        echo "ok $checks - $what"
    else
        failed=$((failed + 1))
        echo "not ok $checks - $what"
        sed 's/^/# /' /tmp/check.out | head -5
    fi
}

refused() { ! "$@"; }

finish() {
    # Nothing of this may be in the log of any run.
    ok "the log has no warning of the kernel" clean_log
    echo "1..$checks"
    [ "$failed" = 0 ]
    exit $?
}

clean_log() { ! { cat /tmp/seen 2>/dev/null; dmesg; } | sed '1,/checks begin/d' | grep -E 'WARNING:|BUG:|Oops|Call Trace|hung task|blocked for more|refcount|stack state'; }

begin() {
    echo "checks begin" >/dev/kmsg
    dmesg -n 4 2>/dev/null
    modprobe dm-mod
    modprobe brd rd_nr=4 rd_size=32768 max_part=0 2>/dev/null || modprobe brd rd_nr=4 rd_size=32768
    ok "the module loads" modprobe dm-remap
}

S=65536 # sectors of a ram disk

# A disk (name, ram disk) whose sectors from $3 on, $4 of them, fail; more pairs may follow.
bad_disk() {
    name=$1 disk=$2; shift 2
    at=0
    {
        while [ $# -gt 1 ]; do
            [ "$1" -gt "$at" ] && echo "$at $(($1 - at)) linear $disk $at"
            echo "$1 $2 error"
            at=$(($1 + $2)); shift 2
        done
        echo "$at $((S - at)) linear $disk $at"
    } >/tmp/bad.$name
    dmsetup create "$name" /tmp/bad.$name
}

# The same disk without bad sectors.
mend() { echo "0 $S linear $2 0" | dmsetup reload "$1" && dmsetup resume "$1"; }

pattern() { yes "$1" | tr -d '\n' | head -c $(($2 * 512)); } # letter, sectors

put() { $DD if="$1" of="$2" bs=512 seek="$3" oflag=direct conv=notrunc 2>/dev/null; } # file, device, sector
get() { $DD if="$1" of="$4" bs=512 skip="$2" count="$3" iflag=direct 2>/dev/null; } # device, sector, sectors, file

says() { # text, device, message...
    want=$1 dev=$2; shift 2
    got=$(dmsetup message "$dev" 0 "$@") || return 1
    echo "$got"
    case $got in "$want"*) return 0 ;; esac
    return 1
}

blank() { $DD if=/dev/zero of="$1" bs=1M count=8 oflag=direct conv=notrunc 2>/dev/null; $DD if=/dev/zero of="$1" bs=1M seek=8 count=24 oflag=direct conv=notrunc 2>/dev/null; }
