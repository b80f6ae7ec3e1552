#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The power fails at flushes of xfs: see the file logwrites. Wants the program remap-chaos, mkfs.xfs, xfs_repair in the path, and the modules xfs and dm-log-writes.
fs=xfs
. "$(dirname "$0")/logwrites"
