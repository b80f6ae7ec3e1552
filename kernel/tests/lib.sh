# SPDX-License-Identifier: GPL-2.0
# What the guest scripts share. Contract: run as root in a guest with dmsetup, dd, cmp, blockdev; the module is found by modprobe. Each check
# prints "ok N - what" or "not ok N - what", the last line is "1..N", the exit code is 0 only if all checks passed.
# A shell may have programs of its own, as a dd that gives up direct I/O without a word: the contract asks for that of coreutils, and so on.
DD=/usr/bin/dd
BLKDISCARD=/usr/sbin/blkdiscard
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

# Types the commands of a document, as an admin would: those of the block that begins with "```sh NAME". The first that fails ends them.
typed() { # document, name
    awk -v begin="\`\`\`sh $2" '$0 == begin { on = 1; next } /^```/ { on = 0 } on' "/tree/docs/$1.md" >"/tmp/typed.$2"
    test -s "/tmp/typed.$2" && sh -ex "/tmp/typed.$2"
}

# Until the command succeeds, so many seconds at most: of the guest's clock, since what a try takes depends on the machine.
within() { # seconds, command...
    local uptime rest deadline
    read -r uptime rest </proc/uptime; deadline=$((${uptime%.*} + $1)); shift
    while ! "$@" >/dev/null 2>&1; do
        read -r uptime rest </proc/uptime
        [ "${uptime%.*}" -lt $deadline ] || { "$@"; return; }
        sleep 0.1
    done
}
soon() { within 30 "$@"; }

# The status line of a device has this text; a word of it.
shows() { dmsetup status "$1" | grep -q -e "$2"; } # device, text
word() { dmsetup status "$1" | cut -d' ' -f"$2"; } # device, number
# Blocks on the spare, sectors that are lost.
moved() { word "$1" 5 | cut -d/ -f1; }
lost() { word "$1" 6 | cut -d/ -f1; }

# The guest's power goes, now.
power_cut() {
    echo "# power cut"
    # All that was printed is out before it is dark.
    stty onlcr <"$VM_OUTPUT" 2>/dev/null
    # User-mode Linux would start again.
    if [ "$VM_KIND" = uml ]; then echo c >/proc/sysrq-trigger; else echo b >/proc/sysrq-trigger; fi
    sleep 60
}

finish() {
    grep -q slub_debug /proc/cmdline && ok "what was done to memory was checked" memory_checked
    # Nothing of this may be in the log of any run.
    ok "the log has no warning of the kernel" clean_log
    echo "1..$checks"
    [ "$failed" = 0 ]
    exit $?
}

# The allocator has these checks on. It looks at an object when that is used again; now it looks at all, and the log has what it finds.
memory_checked() {
    for check in poison red_zone store_user; do [ "$(cat /sys/kernel/slab/kmalloc-64/$check)" = 1 ] || return 1; done
    for cache in /sys/kernel/slab/*; do
        # Linux 7.3 finds fault with the allocator's own, which is older than its checks, also where no module was loaded.
        [ "${cache##*/}" = kmem_cache_node ] || echo 1 >"$cache/validate" || return 1
    done
    sampled=/sys/module/kfence/parameters/sample_interval
    [ ! -e $sampled ] || [ "$(cat $sampled)" -gt 0 ]
}

clean_log() { ! { cat /tmp/seen 2>/dev/null; dmesg; } | sed '1,/checks begin/d' | grep -E 'WARNING:|BUG[: ]|Oops|Call Trace|hung task|blocked for more|refcount|stack state|Redzone|Poison overwritten'; }

begin() {
    echo "checks begin" >/dev/kmsg
    dmesg -n 4 2>/dev/null
    modprobe dm-mod
    modprobe brd rd_nr=4 rd_size=32768 max_part=0 2>/dev/null || modprobe brd rd_nr=4 rd_size=32768
    ok "the module loads" modprobe dm-remap
}

S=65536 # sectors of a ram disk

# The table of a slice (sectors, device) whose sectors from $3 on, $4 of them, fail; more pairs may follow.
bad_slice_table() (
    end=$1 disk=$2 at=0; shift 2
    while [ $# -gt 1 ]; do
        [ "$1" -gt "$at" ] && echo "$at $(($1 - at)) linear $disk $at"
        echo "$1 $2 error"
        at=$(($1 + $2)); shift 2
    done
    echo "$at $((end - at)) linear $disk $at"
)

bad_slice() { # name, the same
    name=$1; shift
    bad_slice_table "$@" >/tmp/bad.$name
    dmsetup create "$name" /tmp/bad.$name
}

# The same with a whole disk (name, disk).
bad_disk() { name=$1 disk=$2; shift 2; bad_slice "$name" "$(blockdev --getsz "$disk")" "$disk" "$@"; }

# The same disk without bad sectors.
mend() { echo "0 $(blockdev --getsz "$2") linear $2 0" | dmsetup reload "$1" && dmsetup resume "$1"; }

pattern() { yes "$1" | tr -d '\n' | head -c $(($2 * 512)); } # letter, sectors

put() { $DD if="$1" of="$2" bs=512 seek="$3" oflag=direct conv=notrunc 2>/dev/null; } # file, device, sector
# Few sectors come one by one, many together.
get() { # device, sector, sectors, file
    if [ "$3" -le 64 ]; then
        $DD if="$1" of="$4" bs=512 skip="$2" count="$3" iflag=direct 2>/dev/null
    else
        $DD if="$1" of="$4" bs=64k skip=$(($2 * 512)) count=$(($3 * 512)) iflag=direct,skip_bytes,count_bytes 2>/dev/null
    fi
}

says() { # text, device, message...
    want=$1 dev=$2; shift 2
    got=$(dmsetup message "$dev" 0 "$@") || return 1
    echo "$got"
    case $got in "$want"*) return 0 ;; esac
    return 1
}

blank() { $DD if=/dev/zero of="$1" bs=1M count=8 oflag=direct conv=notrunc 2>/dev/null; $DD if=/dev/zero of="$1" bs=1M seek=8 count=24 oflag=direct conv=notrunc 2>/dev/null; }
