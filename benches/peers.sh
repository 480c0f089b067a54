#!/usr/bin/env bash
# Backstay beside rsync, restic and borg, in one run on one machine: wire bytes, CPU seconds of all processes of both
# sides, wall seconds, peak memory of both sides together, and their ratios to rsync's.
#
#   benches/peers.sh                 200 000 files and a 1 GiB file
#   FILES=20000 MIB=256 benches/peers.sh
#
# Needs root, for a network namespace as the far side (its link counts the bytes) and a control group around each
# tool (it counts CPU and memory). Every tool reads the same warm source and writes to the same disk:
#   backstay  two daemons, mutual TLS; timed until the replica is applied, with the store's history written too
#   rsync     rsync -aHAXS --delete to an rsync daemon: no encryption, no history
#   restic    to `rclone serve restic`: encrypted and compressed history, no replica
#   borg      to `borg serve`, without encryption, lz4: history, no replica
set -euo pipefail
cd "$(dirname "$0")/.."

files=${FILES:-200000} mib=${MIB:-1024} tools=${TOOLS:-"rsync backstay restic borg"}
[ "$(id -u)" -eq 0 ] || { echo "error: needs root for a network namespace and control groups" >&2; exit 1; }
scripts/packages.sh rsync=rsync restic=restic borg=borgbackup rclone=rclone socat=socat ip=iproute2 setfacl=acl
if [ -z "${BACKSTAY_BIN:-}" ]; then
    cargo build --locked --release -p backstay
    BACKSTAY_BIN=$PWD/target/release/backstay
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/backstay-peers.XXXXXX")
far=bsfar$$ near_if=bsn$$ near=10.217.43.1 there=10.217.43.2
group=backstay-peers-$$
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    cpu_group=/sys/fs/cgroup/$group memory_group=/sys/fs/cgroup/$group
    echo "+cpu +memory" >/sys/fs/cgroup/cgroup.subtree_control
else
    cpu_group=/sys/fs/cgroup/cpuacct/$group memory_group=/sys/fs/cgroup/memory/$group
fi

# Every process of a measured tool is in the group, however it was started.
clean_up() {
    rm -f "$work/measuring"
    for _ in $(seq 50); do
        mapfile -t left <"$cpu_group/cgroup.procs" || true
        [ ${#left[@]} -eq 0 ] && break
        kill -9 "${left[@]}" 2>/dev/null || true
        sleep 0.1
    done
    wait 2>/dev/null || true
    ip netns del $far 2>/dev/null || true
    ip link del $near_if 2>/dev/null || true
    rmdir "$cpu_group" "$memory_group" 2>/dev/null || true # one folder where the groups are unified
    rm -rf "$work"
}
trap clean_up EXIT

ip netns add $far
ip link add $near_if type veth peer name bsf$$ netns $far
ip addr add $near/24 dev $near_if
ip link set $near_if up
ip -n $far addr add $there/24 dev bsf$$
ip -n $far link set bsf$$ up
ip -n $far link set lo up
mkdir -p "$cpu_group" "$memory_group"

# ---- measuring

# inside COMMAND…: runs it in the control group.
inside() {
    bash -c 'for group in "$1" "$2"; do echo $$ >"$group/cgroup.procs"; done; shift 2; exec "$@"' _ "$cpu_group" "$memory_group" "$@"
}
cpu_micros() {
    if [ -f "$cpu_group/cpu.stat" ] && grep -q usage_usec "$cpu_group/cpu.stat"; then
        awk '/^usage_usec/ {print $2}' "$cpu_group/cpu.stat"
    else
        awk '{printf "%d\n", $1 / 1000}' "$cpu_group/cpuacct.usage"
    fi
}
wire() { echo $(($(cat /sys/class/net/$near_if/statistics/tx_bytes) + $(cat /sys/class/net/$near_if/statistics/rx_bytes))); }
# Memory that no cache can give back, of all processes together, looked at every 20 ms.
watch_memory() {
    local peak=0 now
    while [ -f "$work/measuring" ]; do
        now=$(awk '/^(total_rss|anon) / {print $2; exit}' "$memory_group/memory.stat")
        [ "${now:-0}" -gt $peak ] && peak=$now && echo "$peak" >"$work/peak"
        sleep 0.02
    done
}

# measure CASE TOOL COMMAND…: one line of results.
measure() {
    local case=$1 tool=$2 start cpu sent watcher
    shift 2
    sync
    echo 0 >"$work/peak"
    touch "$work/measuring"
    watch_memory &
    watcher=$!
    cpu=$(cpu_micros) sent=$(wire) start=$(date +%s%N)
    "$@" >"$work/$tool.out" 2>&1 || { echo "error: $tool failed in $case" >&2; tail -5 "$work/$tool.out" >&2; exit 1; }
    local end
    end=$(date +%s%N)
    rm "$work/measuring"
    wait $watcher || true
    printf '%s\t%s\t%d\t%.2f\t%.2f\t%d\n' "$case" "$tool" $(($(wire) - sent)) \
        "$(awk "BEGIN {print ($(cpu_micros) - $cpu) / 1e6}")" "$(awk "BEGIN {print ($end - $start) / 1e9}")" \
        "$(cat "$work/peak")" >>"$work/results"
    tail -1 "$work/results" | awk -F'\t' '{printf "  %-9s %-28s %12d B %8.2f cpu s %8.2f s %7.1f MiB\n", $2, $1, $3, $4, $5, $6 / 1048576}'
}

# ---- the tools: each has start_TOOL SOURCE NAME, and run_TOOL SOURCE NAME

wait_for_port() {
    for _ in $(seq 200); do
        (exec 3<>"/dev/tcp/$there/$1") 2>/dev/null && return
        sleep 0.05
    done
    echo "error: nothing answers at $there:$1" >&2
    exit 1
}
serve_far() {
    { inside ip netns exec $far "$@" >>"$work/servers.log" 2>&1 & disown; } 2>/dev/null
}

start_rsync() {
    mkdir -p "$work/rsync"
    printf 'use chroot = no\nuid = 0\ngid = 0\n[all]\npath = %s\nread only = no\n' "$work/rsync" >"$work/rsyncd.conf"
    serve_far rsync --daemon --no-detach --config="$work/rsyncd.conf" --port=8730
    wait_for_port 8730
}
run_rsync() { inside rsync -aHAXS --delete "$1/" "rsync://$there:8730/all/$2/"; }

start_restic() {
    export RESTIC_PASSWORD=peers RESTIC_CACHE_DIR=$work/restic-cache
    serve_far rclone serve restic --addr $there:8731 "$work/restic"
    wait_for_port 8731
    restic --quiet -r "rest:http://$there:8731/" init >/dev/null
}
run_restic() { inside restic --quiet -r "rest:http://$there:8731/" backup "$1"; }

start_borg() {
    export BORG_BASE_DIR=$work/borg-home BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RSH=$work/borg-rsh
    printf '#!/bin/sh\nexec socat - TCP:%s:8732\n' $there >"$BORG_RSH"
    chmod +x "$BORG_RSH"
    mkdir -p "$work/borg"
    serve_far socat "TCP-LISTEN:8732,fork,reuseaddr" "EXEC:borg serve"
    wait_for_port 8732
    borg init --encryption none "ssh://far$work/borg/all"
}
run_borg() { inside borg create "ssh://far$work/borg/all::$2-$(date +%s%N)" "$1"; }

start_backstay() {
    "$BACKSTAY_BIN" init --site "$work/east" --name east --listen $near:8740 >/dev/null
    "$BACKSTAY_BIN" init --site "$work/west" --name west --listen $there:8740 >/dev/null
    { inside "$BACKSTAY_BIN" serve --site "$work/east" >>"$work/servers.log" 2>&1 & disown; } 2>/dev/null
    serve_far "$BACKSTAY_BIN" serve --site "$work/west"
    for site in east west; do
        for _ in $(seq 200); do
            "$BACKSTAY_BIN" pair list --site "$work/$site" >/dev/null 2>&1 && break
            sleep 0.05
        done
    done
    "$BACKSTAY_BIN" pair join "$("$BACKSTAY_BIN" pair key --site "$work/west" --endpoint $there:8740)" --site "$work/east" >/dev/null
}
run_backstay() {
    local id
    if ! "$BACKSTAY_BIN" plan get "$2" --site "$work/east" >/dev/null 2>&1; then
        printf 'apiVersion: backstay.dev/v1alpha1\nkind: ReplicationPlan\nmetadata: {name: %s}\nspec:\n  pair: west\n  volumes: [{name: data, path: %s}]\n' \
            "$2" "$1" | "$BACKSTAY_BIN" plan apply -f - --site "$work/east"
    fi
    id=$(inside "$BACKSTAY_BIN" sync "$2" -o json --site "$work/east" | grep -o '"id": *"[^"]*"' | head -1 | cut -d'"' -f4)
    for _ in $(seq 6000); do
        "$BACKSTAY_BIN" status "$2" -o json --site "$work/west" | grep -q "\"appliedRestorePoint\": *\"$id\"" && return
        sleep 0.02
    done
    return 1
}

# ---- the sources

echo "making $files small files and a file of $mib MiB"
awk -v n="$files" -v dir="$work/small" 'BEGIN {
    srand(7)
    for (i = 0; i < n; i++) {
        if (i % 250 == 0) { folder = sprintf("%s/%02d/%05d", dir, i / 250 % 50, i / 250); system("mkdir -p " folder) }
        name = sprintf("%s/file%07d.txt", folder, i); lines = int(rand() * 60)
        for (l = 0; l <= lines; l++) printf "%d order %d of replica %f, promoted\n", i, l, rand() > name
        close(name)
    }
}'
mkdir -p "$work/large"
head -c $((mib << 20)) /dev/urandom >"$work/large/database"

# 1 % of the 4 KiB sectors, anywhere in the file.
rewrite() {
    local sectors=$((mib * 256 / 100)) all=$((mib * 256))
    for _ in $(seq $sectors); do
        head -c 4096 /dev/urandom | dd of="$work/large/database" bs=4096 count=1 seek=$(((RANDOM * 32768 + RANDOM) % all)) conv=notrunc status=none
    done
}
# One file of a hundred gets a line, one of two hundred goes, one of two hundred is new.
touch_some() {
    find "$work/small" -type f | sort >"$work/list"
    awk 'NR % 100 == 1' "$work/list" | while IFS= read -r file; do echo "one more line" >>"$file"; done
    awk 'NR % 200 == 2' "$work/list" | xargs rm -f
    awk 'NR % 200 == 3' "$work/list" | while IFS= read -r file; do echo "a new file" >"$file.new"; done
}

# Each case for all tools before the next, so that all see the same source, warm.
for tool in $tools; do start_$tool; done
each() {
    local case=$1 source=$2 name=$3
    find "$source" -type f -print0 | xargs -0 cat >/dev/null
    sleep 3
    for tool in $tools; do measure "$case" "$tool" "run_$tool" "$source" "$name"; done
}
each "first sync, $files files" "$work/small" small
each "rescan, nothing changed" "$work/small" small
touch_some
each "2 % of the files changed" "$work/small" small
each "first sync, $mib MiB file" "$work/large" large
rewrite
each "1 % rewritten, 4 KiB each" "$work/large" large

# ---- the table

echo
printf '%-28s %-9s %14s %9s %9s %9s   %s\n' case tool 'wire bytes' 'cpu s' 'wall s' 'peak MiB' 'ratios to rsync: wire, cpu, wall, memory'
awk -F'\t' '
    $2 == "rsync" { for (i = 3; i <= 6; i++) base[$1, i] = $i }
    { line[NR] = $0 }
    END {
        for (n = 1; n <= NR; n++) {
            split(line[n], f, "\t"); ratios = ""
            for (i = 3; i <= 6; i++) ratios = ratios (base[f[1], i] > 0 ? sprintf("%8.2f", f[i] / base[f[1], i]) : "       -")
            printf "%-28s %-9s %14d %9.2f %9.2f %9.1f  %s\n", f[1], f[2], f[3], f[4], f[5], f[6] / 1048576, ratios
        }
    }' "$work/results"
if echo "$tools" | grep -q backstay; then
    diff -rq --no-dereference "$work/large" "$work/west/replicas/large/data" && diff -rq --no-dereference "$work/small" "$work/west/replicas/small/data" &&
        echo "backstay's replicas are equal to the sources"
fi
