#!/bin/sh
# The first process of a guest. /vm/job says what this run is: variables, arguments, and the function `disks`, which calls
# `disk NAME SERIAL NUMBER` for each disk.
/usr/bin/busybox mkdir -p /opt/busybox /proc /sys /dev /run /tmp /mnt /root /disk /report/out
/usr/bin/busybox --install -s /opt/busybox
export PATH=/usr/sbin:/usr/bin:/opt/busybox HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
mount -t tracefs trace /sys/kernel/tracing 2>/dev/null
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/self/mounts /etc/mtab
ln -sfn /report/out /out
ip link set lo up
hostname guest
. /vm/job
exec >"$VM_OUTPUT" 2>&1
stty -onlcr <"$VM_OUTPUT" 2>/dev/null
modprobe -a $VM_DRIVERS configfs 2>/dev/null
mount -t configfs config /sys/kernel/config 2>/dev/null

serial_of() { # block device: what the disk says its serial number is
    tr -d ' \n' 2>/dev/null </sys/block/$1/serial || tr -d ' \n' 2>/dev/null </sys/block/$1/device/serial ||
        tail -c +5 2>/dev/null </sys/block/$1/device/vpd_pg80 | tr -d ' \0'
}
disk() { # name, serial number, number: waits until it is there, and makes /disk/NAME
    n=0
    while [ $n -lt 600 ]; do
        if [ "$VM_KIND" = uml ]; then
            letter=$(echo abcdefghijklmnop | cut -c$(($3 + 1)))
            [ -b /dev/ubd$letter ] && ln -sfn /dev/ubd$letter /disk/$1 && return
        else
            for device in /sys/block/*; do
                device=${device##*/}
                [ "$(serial_of $device)" = "$2" ] && [ -b /dev/$device ] && ln -sfn /dev/$device /disk/$1 && return
            done
        fi
        sleep 0.1; n=$((n + 1))
    done
    echo "guest: disk $1 did not come"
}
disks
if [ -x /usr/lib/systemd/systemd-udevd ]; then
    /usr/lib/systemd/systemd-udevd --daemon
    udevadm trigger; udevadm settle
fi
# Shortly before the time is up: what waits for what.
(sleep $VM_PATIENCE; dmesg -n 8; ps >"$VM_OUTPUT"; echo w >/proc/sysrq-trigger; echo l >/proc/sysrq-trigger) &
cd /root
echo "# the guest has begun"
"$VM_SCRIPT" "$@" </dev/null
status=$?
# A script may go on under another first process, which it left here, and which ends as this one.
[ $status = 0 ] && [ -x /run/first ] && exec /run/first
exec /vm/end $status
