#!/usr/bin/env bash
# How long a takeover takes, at two sizes, and what goes over the wire on the way home. Prints a table; asserts nothing.
#
#   RTO_SIZES="10000:2048 100000:20480"   files : MiB in one large file, for each takeover
#   HOME_MIB=5120                         size of the volume that goes home, of which one page in a hundred changes; 0: none
#   PORT=27443                            the first of two UDP ports
#
# Needs about twice the largest size below TMPDIR, less where that file system compresses.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${BACKSTAY_BIN:-}" ]; then
    cargo build --locked --release -p backstay
    BACKSTAY_BIN=$PWD/target/release/backstay
fi
sizes=${RTO_SIZES:-"10000:2048 100000:20480"}
home_mib=${HOME_MIB:-5120} port=${PORT:-27443}
work=$(mktemp -d "${TMPDIR:-/tmp}/backstay-failover-XXXXXX")
daemons=()
stop() { for pid in "${daemons[@]}"; do kill -9 "$pid" 2>/dev/null || true; done; daemons=(); wait 2>/dev/null || true; }
# A power cut of one daemon.
lose() { kill -9 "$1"; wait "$1" 2>/dev/null || true; }
trap 'stop; rm -rf "$work"' EXIT

site() { "$BACKSTAY_BIN" --site "$work/$1" "${@:2}"; }
serve() { "$BACKSTAY_BIN" --site "$work/$1" serve >>"$work/$1.log" 2>&1 & daemons+=($!); last=$!; }
field() { sed -n "s/^ *\"$1\": *\"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" | head -1; }
until_true() { for _ in $(seq 14400); do if "$@"; then return; fi; sleep 0.25; done; echo "error: gave up: $*" >&2; exit 1; }
answers() { site "$1" status >/dev/null 2>&1; }
has() { [ "$(site "$1" status shop -o json | field "$2")" = "$3" ]; }
applied() { [ "$(site west status shop -o json | field appliedRestorePoint)" = "$1" ]; }

# Two paired sites with one plan over $work/source; the path of the standby's replica is printed by nobody.
pair() {
    site east init --name east --listen 127.0.0.1:$port >/dev/null
    site west init --name west --listen 127.0.0.1:$((port + 1)) >/dev/null
    serve east; east=$last; serve west
    until_true answers east; until_true answers west
    site east pair join "$(site west pair key)" >/dev/null
    site east plan apply -f - >/dev/null <<EOF
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {name: shop}
spec: {pair: west, volumes: [{name: data, path: $work/source}]}
EOF
}

# MIB of lines, each page different from the next.
large() { seq 1 "$(($1 * 256))" | awk '{printf "%-4095s\n", $1}' >"$2"; }

printf '%-34s %12s\n' "takeover with everything applied" "RTO"
for size in $sizes; do
    files=${size%:*} mib=${size#*:}
    mkdir "$work/source"
    seq "$files" | (cd "$work/source" && split -l 1 -a 6 -d - f)
    large "$mib" "$work/source/large"
    pair
    point=$(site east sync shop -o json | field id)
    until_true applied "$point"
    lose "$east"
    rto=$(site west promote shop -o json | field rtoSeconds)
    printf '%-34s %10s s\n' "$files files, $mib MiB" "$rto"
    stop; rm -rf "${work:?}"/*
done

if [ "$home_mib" = 0 ]; then exit; fi
mkdir "$work/source"
head -c "${home_mib}M" /dev/urandom >"$work/source/db"
pair
point=$(site east sync shop -o json | field id)
until_true applied "$point"
lose "$east"
site west promote shop >/dev/null
for page in $(seq 0 100 $((home_mib * 256 - 1))); do echo "$page"; done | while read -r page; do
    printf '%s\n' "$page" | dd of="$work/west/replicas/shop/data/db" bs=1 seek=$((page * 4096)) conv=notrunc status=none
done
serve east
until_true answers east
until_true has east role standby
report=$(site west sync shop -o json)
wire=$(printf '%s' "$report" | field wireBytes)
printf '%-34s %12s\n' "failback of $home_mib MiB, 1 % of pages" "on the wire"
printf '%-34s %10s %%\n' "" "$(awk -v w="$wire" -v m="$home_mib" 'BEGIN {printf "%.2f", 100 * w / m / 1048576}')"
rto=$(site west failback shop -o json | field rtoSeconds)
cmp "$work/source/db" "$work/west/replicas/shop/data/db"
printf '%-34s %10s s, equal byte for byte\n' "failback itself" "$rto"
