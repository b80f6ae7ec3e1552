#!/bin/sh
# The end of a guest: what the script's status was, and what it left, goes to the report.
echo $1 >/report/status
# Waits until all that was printed is out.
stty onlcr <"$VM_OUTPUT" 2>/dev/null
report=$(readlink /disk/report)
tar cf "$report" -C /report status out || echo "guest: what is in /out does not fit"
sync
poweroff -f
