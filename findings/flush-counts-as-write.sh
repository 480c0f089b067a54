#!/usr/bin/env bash
# Whoever asks whether a block device was written by its counters must not look at the number of write requests.
#
# Expected, from Documentation/admin-guide/iostats.rst (Linux 5.5 and newer): a flush is counted in fields of its own (16 and
# 17 of the statistics), so "writes completed" (field 5 of /proc/diskstats counted from the device's name as 0) stands still
# while nobody writes.
# Seen on Linux 6.18: each fsync of a device that was opened for reading raises "writes completed" as well as "flush requests
# completed"; "sectors written" stands still. So only the sectors tell of a write.
#
# Needs root (a loop device), util-linux and coreutils. Exits 0 if it is as seen, 1 if not, 77 where it cannot run.
set -euo pipefail

[ "$(id -u)" -eq 0 ] || { echo "skipped: a loop device needs root"; exit 77; }
work=$(mktemp -d)
trap '[ -z "${device:-}" ] || losetup --detach "$device"; rm -rf "$work"' EXIT
truncate --size 8M "$work/image"
device=$(losetup --find --show "$work/image") || { echo "skipped: no loop device"; exit 77; }
stat=/sys/block/$(basename "$device")/stat

# Completed writes, sectors written, completed flushes.
counters() { awk '{print $5, $7, $16}' "$stat"; }

sync "$device"
read -r writes sectors flushes < <(counters)
for _ in 1 2 3; do
    sync "$device" # opens it for reading, and calls fsync
done
read -r writes_after sectors_after flushes_after < <(counters)

echo "Linux $(uname -r), $device: three flushes, nothing written"
echo "writes completed  $writes -> $writes_after"
echo "sectors written   $sectors -> $sectors_after"
echo "flushes completed ${flushes:-none} -> ${flushes_after:-none}"
[ "$((writes_after - writes))" -ge 3 ] && [ "$sectors" -eq "$sectors_after" ]
