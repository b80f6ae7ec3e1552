#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A hundred lives of a volume, each with a move and a lost sector, every fifth with a message, a suspend and a refused table: what the kernel keeps afterwards.
. "$(dirname "$0")/lib.sh"
begin
dmesg -n 1 # refusals are what is asked for here
main=/dev/ram0 spare=/dev/ram1
D=/dev/mapper/r
bad= n=0; while [ $n -lt 160 ]; do bad="$bad $((2048 + n * 80)) 8"; n=$((n + 1)); done
bad_disk flawed $main $bad
pattern L 8 >/tmp/l
life() { # number
    dmsetup create r --table "0 $S dm-remap /dev/mapper/flawed $spare" || return 1
    put /tmp/l $D $((2048 + $1 * 80)) || return 1
    get $D $((2048 + 40 * 80 + $1 * 80)) 8 /tmp/b
    case $1 in *[05])
        dmsetup message r 0 verify 0-100 >/dev/null && dmsetup suspend r && dmsetup resume r || return 1
        dmsetup create r2 --table "0 $S dm-remap /dev/ram2 $spare" 2>/dev/null && return 1 ;;
    esac
    dmsetup remove r
}
lives() { n=$1; while [ $n -lt $2 ]; do life $n || { echo "life $n"; return 1; }; n=$((n + 1)); done; }
# Objects in use, by cache: those of processes, files and the page cache come and go with what a shell does.
slabs() { sync; echo 3 >/proc/sys/vm/drop_caches; sleep 1; awk 'NR > 2 {print $1, $2 * $4 / 1024}' /proc/slabinfo; }
memory() { awk '/^SUnreclaim|^VmallocUsed|^Percpu|^KernelStack/ {sum += $2} END {print sum}' /proc/meminfo; }
ok "ten lives" lives 0 10
slabs >/tmp/slabs.1; before=$(memory)
ok "a hundred more" lives 10 110
slabs >/tmp/slabs.2; after=$(memory)
echo "# KiB that the kernel cannot give back: $before, then $after"
ok "no memory goes with them" test $after -lt $((before + 1024))
awk 'NR == FNR {was[$1] = $2; next} $2 - was[$1] > 100 {print "# " $1 " " was[$1] " KiB, then " $2}' /tmp/slabs.1 /tmp/slabs.2 >/tmp/grown
cat /tmp/grown
# 110 of anything that a life allocates would show: the least is 64 bytes, a volume's tables take pages. (What describes vmalloc's areas comes back late, many
# at once; the areas themselves are in `memory`.)
grep -Ev 'vmap_area|dentry|inode|radix|buffer_head|filp|vm_area|anon_vma|task|cred|pid|signal|sighand|files_cache|mm_struct|maple|kernfs|names_cache|proc|sock|skb|shmem|seq_file|eventpoll|xa' /tmp/grown >/tmp/suspicious
ok "no cache has grown by 100 KiB" test ! -s /tmp/suspicious
ok "no thread is left" sh -c "! ps | grep -v grep | grep -q '[d]m-remap'"
ok "remove the disk" dmsetup remove flawed
ok "the module goes" modprobe -r dm-remap
ok "and leaves no cache" sh -c "! grep -qi remap /proc/slabinfo"
finish
