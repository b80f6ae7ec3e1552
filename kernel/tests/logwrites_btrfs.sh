#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The power fails at flushes of btrfs: see the file logwrites. Wants the program remap-chaos, mkfs.btrfs, btrfs in the path, and the modules btrfs and dm-log-writes.
fs=btrfs
. "$(dirname "$0")/logwrites"
