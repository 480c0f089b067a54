#!/usr/bin/env bash
# The fidelity and memory suites at full size: a 1 GB system tree, 200 000 small files, an 8 GiB sparse image, a
# million files, a 20 GiB file. Needs about 60 GB below TMPDIR and half an hour.
set -euo pipefail
cd "$(dirname "$0")/.."

export BACKSTAY_SYSTEM_MB=${BACKSTAY_SYSTEM_MB:-1000} BACKSTAY_SMALL_FILES=${BACKSTAY_SMALL_FILES:-200000}
export BACKSTAY_MEMORY_FILES=${BACKSTAY_MEMORY_FILES:-1000000} BACKSTAY_MEMORY_MIB=${BACKSTAY_MEMORY_MIB:-20480}
export BACKSTAY_SPARSE_GIB=${BACKSTAY_SPARSE_GIB:-8}

room=$(df --output=avail -BG "${TMPDIR:-/tmp}" | tail -1 | tr -dc '0-9')
if [ "$room" -lt 60 ]; then
    echo "error: ${TMPDIR:-/tmp} has $room GB free, 60 are needed" >&2
    echo "hint: set TMPDIR to a larger file system, or BACKSTAY_MEMORY_MIB to a smaller file" >&2
    exit 1
fi
scripts/packages.sh rsync=rsync setfacl=acl setfattr=attr setcap=libcap2-bin
cargo build --locked -p backstay
for suite in fidelity memory; do
    # One at a time: each needs its own disk space, and memory is measured.
    cargo test --locked -p backstay-tests --test integration -- --nocapture --test-threads 1 "$suite::"
done
