#!/usr/bin/env bash
# Kills the daemons at random moments over a run of cycles: `scripts/kill-test.sh [KILLS] [SEED]`, 50 by default.
# Then: nothing acked is lost, `verify` is clean, every restore point restores, promotion is exact.
set -euo pipefail
cd "$(dirname "$0")/.."

export BACKSTAY_KILLS=${1:-50} BACKSTAY_SEED=${2:-$RANDOM}
echo "$BACKSTAY_KILLS kills, seed $BACKSTAY_SEED"
scripts/packages.sh rsync=rsync
cargo build --locked -p backstay
exec cargo test --locked -p backstay-tests --test integration -- --nocapture --exact kill::killed_daemons_lose_nothing
