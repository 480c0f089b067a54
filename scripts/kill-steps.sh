#!/usr/bin/env bash
# Kills a daemon at each durable step of a switchover, a failback, a promotion and a return, and cuts the link at random
# moments of switchovers: `scripts/kill-steps.sh [STEP] [CUTS] [SEED]`: every STEP-th step (1), so many cuts (40).
set -euo pipefail
cd "$(dirname "$0")/.."

export BACKSTAY_KILL_STEP=${1:-1} BACKSTAY_CUTS=${2:-40} BACKSTAY_SEED=${3:-$RANDOM}
echo "every step number $BACKSTAY_KILL_STEP, $BACKSTAY_CUTS cuts, seed $BACKSTAY_SEED"
scripts/packages.sh rsync=rsync ip=iproute2
cargo build --locked -p backstay
exec cargo test --locked -p backstay-tests --test integration -- --nocapture every_step:: cut::
