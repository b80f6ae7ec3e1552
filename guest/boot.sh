#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A machine with systemd that starts again: the units of "dm-remap generate-units" bring a volume up before its file system is mounted, by the target, then by stock
# tables, and take it away after that was unmounted. Every life begins with what an installed machine has on its disk, here in memory. Wants udev, systemd,
# /disk/main and /disk/spare (virtio, serial numbers MAIN-1 and SPARE-1), the program dm-remap, and mkfs.ext4, dumpe2fs.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stock.lib"
life=$1
M=/dev/disk/by-id/virtio-MAIN-1 P=/dev/disk/by-id/virtio-SPARE-1
STAGE=/run/stage

# What the machine has on its disk, and who comes up at its boot.
installed() { # unit
    mkdir -p /etc/systemd/system /etc/dm-remap /srv
    dm-remap generate-units /etc/systemd/system || return
    printf 'MAIN=%s\nSPARE=%s\n' $M $P >/etc/dm-remap/disk.conf
    echo "/dev/mapper/disk /srv ext4 nofail 0 0" >/etc/fstab
    # Without it this were the first boot, which enables all units.
    tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
    systemctl enable "$1"
}

# The rest of this script, as a service of systemd's.
under_systemd() {
    cat >/etc/systemd/system/script.service <<END
[Unit]
After=local-fs.target srv.mount
Wants=systemd-udevd.service systemd-udev-trigger.service
Requires=local-fs.target
[Service]
Environment=VM_OUTPUT=$VM_OUTPUT VM_KIND=$VM_KIND HOME=/root TERM=dumb PATH=$PATH
ExecStart=/bin/sh -c 'exec $0 $life >$VM_OUTPUT 2>&1'
END
    echo "$checks $failed" >$STAGE
    # The machine's own comes up with the others.
    udevadm control --exit; rm -rf /run/udev /dev/disk
    printf '#!/bin/sh\nexec /lib/systemd/systemd --unit=script.service --log-target=kmsg --log-level=info\n' >/run/first
    chmod +x /run/first
    exit 0
}

is_stock() { dmsetup table disk | grep -q linear; }
is_target() { dmsetup table disk | grep -q " dm-remap "; }
mounted() { grep -q " /srv ext4 " /proc/mounts; }
idle() { test -z "$(systemctl list-jobs --no-legend)"; }
active() { systemctl is-active "$1"; }
serving() { systemctl show -p MainPID --value dm-remap-stock@disk; }
clean() { ! dumpe2fs -h $M 2>/dev/null | grep -q needs_recovery; }
shutdown() { # verb of systemctl
    echo "# $1"
    systemctl $1
    sleep 60
}

if [ ! -e $STAGE ]; then
    begin
    udevadm settle
    ok "disks have names of their own" test -b $M -a -b $P
    case $life in
    1)
        ok "a volume" dmsetup create disk --table "0 $(blockdev --getsz $M) dm-remap $M $P"
        ok "a file system" mkfs.ext4 -q /dev/mapper/disk
        ok "it goes" dmsetup remove --retry disk
        ok "units are installed" installed dm-remap-target@disk
        ;;
    2)
        ok "it was unmounted before its device went" clean
        ok "units are installed" installed dm-remap-stock@disk
        ;;
    3)
        ok "it was unmounted before its device went" clean
        ok "units are installed" installed dm-remap-target@disk
        echo "MAIN=/dev/disk/by-id/virtio-GONE" >>/etc/dm-remap/disk.conf
        sed -i 's/--timeout=60/--timeout=5/' /etc/systemd/system/dm-remap-*.service
        sed -i 's/nofail/nofail,x-systemd.device-timeout=10/' /etc/fstab
        ;;
    esac
    under_systemd
fi

read -r checks failed <$STAGE
case $life in
1)
    ok "the target came up at boot" soon active dm-remap-target@disk
    ok "and is the device" is_target
    ok "the file system is mounted" soon mounted
    echo "written at the first boot" >/srv/file && sync
    ok "a file is written" test -s /srv/file
    shutdown reboot
    ;;
2)
    ok "stock tables came up at boot" soon active dm-remap-stock@disk
    ok "and are the device" is_stock
    ok "the file system is mounted" soon mounted
    ok "the file is there" grep -q "first boot" /srv/file
    kill -9 "$(serving)"
    ok "the process dies, and systemd starts them again" soon sh -c 'test "$(systemctl show -p NRestarts --value dm-remap-stock@disk)" = 1 && systemctl is-active dm-remap-stock@disk'
    ok "the file system knows nothing of it" grep -q "first boot" /srv/file
    ok "they are told to restart" systemctl restart dm-remap-stock@disk
    ok "and the file system is mounted still" mounted
    ok "it is unmounted" systemctl stop srv.mount
    ok "the target takes the place of stock tables" systemctl start dm-remap-target@disk
    ok "and is the device" is_target
    # Its unit is not the one that is enabled.
    udevadm settle
    ok "systemd has nothing more to do" soon idle
    ok "it still is" sh -c 'dmsetup table disk | grep " dm-remap " && systemctl is-active dm-remap-target@disk'
    ok "that it is stock tables' turn again" systemctl start dm-remap-stock@disk
    ok "and they are the device" is_stock
    ok "it is mounted again" systemctl start srv.mount
    ok "the file is there" grep -q "first boot" /srv/file
    shutdown reboot
    ;;
3)
    ok "without its main device the volume does not come up" soon sh -c 'systemctl is-failed dm-remap-target@disk'
    ok "and the machine does" active local-fs.target
    ok "nor is anything mounted" refused mounted
    sed -i '$d' /etc/dm-remap/disk.conf
    ok "with the right name it comes up" systemctl start dm-remap-target@disk
    ok "is mounted" systemctl start srv.mount
    ok "the file is there" grep -q "first boot" /srv/file
    ok "and goes" systemctl stop srv.mount dm-remap-target@disk
    ok "its device, too" refused dmsetup info disk
    (finish) && exec /vm/end 0
    exec /vm/end 1
    ;;
esac
