#!/usr/bin/env bash
# Two sites and a witness in virtual time, under every fault there is: many seeds, and one line that says how it went.
# Usage: scripts/simulate.sh [SEEDS] [PROFILE]; SEED=n scripts/simulate.sh repeats one seed with its events.
set -euo pipefail
cd "$(dirname "$0")/.."

BACKSTAY_SEEDS=${1:-10000}
export BACKSTAY_SEEDS
cargo test --locked --profile "${2:-dev}" -p backstay-tests --test sim -- --nocapture |
    grep -v -e '^$' -e '^running ' -e '^test result'
