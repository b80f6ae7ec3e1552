#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The power fails at flushes of ext4: see the file logwrites. Wants the program remap-chaos, mkfs.ext4, e2fsck in the path, and the modules ext4 and dm-log-writes.
fs=ext4
. "$(dirname "$0")/logwrites"
