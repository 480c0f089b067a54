#!/usr/bin/env bash
# Short entry point: Backstay beside rsync, restic and borg. See benches/peers.sh.
exec "$(dirname "$0")/../benches/peers.sh" "$@"
