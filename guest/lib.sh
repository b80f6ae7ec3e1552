# SPDX-License-Identifier: GPL-2.0
# What the guest scripts for user space share: the checks of kernel/tests/lib.sh, without the kernel target. docs/vm.md tells the contract.
. "$(dirname "$0")/../kernel/tests/lib.sh"

begin() { # [module...]
    echo "checks begin" >/dev/kmsg
    dmesg -n 4 2>/dev/null
    for module in dm-mod nbd "$@"; do modprobe $module; done
    mkdir -p /run/dm-remap /mnt
}

ram_disks() { modprobe brd rd_nr=$1 rd_size=32768; } # number, each of $S sectors

# Waits up to a minute until the command succeeds.
wait_for() { # command...
    within 60 "$@" >/dev/null 2>&1 && return
    echo "waited in vain for: $*"
    return 1
}

# Makes a volume that is called as the last part of its main device's path.
adopt() { # main, spare, option of adopt...
    main=$1 spare=$2; shift 2
    dm-remap adopt $main --spare $spare --name ${main##*/} "$@"
}

# Serves it and attaches it as a block device; $server is the process.
serve() { # nbd device, main, spare, option of serve...
    device=$1 volume=${2##*/} main=$2 spare=$3; shift 3
    socket=/run/dm-remap/$volume.nbd
    dm-remap serve $main --spare $spare "$@" >>/tmp/serve.log 2>&1 &
    server=$!
    wait_for test -S $socket && nbd-client -unix $socket $device >/tmp/client.log 2>&1 && return
    cat /tmp/serve.log /tmp/client.log
    return 1
}

# Detaches it, and ends its server in order.
unserve() { # nbd device
    nbd-client -d $1 >/dev/null 2>&1
    kill $server && wait $server
}

counts() { dm-remap status $1 --line; } # volume: 0 SECTORS remap v2.0 REMAPPED/.. LOST/.. ...
remapped() { counts $1 | sed 's,.* v2.0 \([0-9]*\)/.*,\1,'; }
lost() { counts $1 | sed 's,.* v2.0 [0-9]*/[0-9]* \([0-9]*\)/.*,\1,'; }
is() { [ "$($2 $3)" = $1 ]; }
counted() { # number, remapped or lost, volume: it comes to that before long
    wait_for is "$@" && return
    counts $3
    return 1
}
