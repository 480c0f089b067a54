#!/usr/bin/env bash
# The whole story on this machine, on real data found on it, in about two minutes after the build: pair two sites,
# first sync, changes, increments, kill -9 of the receiver in the middle of a cycle, loss of the active site,
# promotion to the newest restore point and to an older one. Each step is checked byte for byte.
#
#   scripts/demo.sh           build and run; nothing is left behind
#   KEEP=1 scripts/demo.sh    leave the two sites and the data for a closer look
#
# Needs a Rust toolchain and coreutils, findutils, diffutils. Uses rsync and sqlite3 too where they are installed.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
note() { printf '  %s\n' "$*"; }
die() {
    printf 'demo FAILED: %s\n' "$*" >&2
    for log in "${work:-/nowhere}"/*.log; do
        [ -f "$log" ] && printf -- '--- %s\n' "$log" >&2 && tail -n 20 "$log" >&2
    done
    exit 1
}

if [ -n "${BACKSTAY_BIN:-}" ]; then
    bin=$BACKSTAY_BIN
else
    say "Building (once)"
    cargo build --locked --release -p backstay
    bin=$PWD/$(basename "${CARGO_TARGET_DIR:-target}")/release/backstay
    [ -n "${CARGO_TARGET_DIR:-}" ] && bin=$CARGO_TARGET_DIR/release/backstay
fi
started=$SECONDS
work=$(mktemp -d "${TMPDIR:-/tmp}/backstay-demo.XXXXXX")
east_pid='' west_pid=''

clean_up() {
    for pid in $east_pid $west_pid; do
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [ -n "${KEEP:-}" ]; then echo "left in $work"; else rm -rf "$work"; fi
}
trap clean_up EXIT

# ---- helpers

east() { "$bin" "$@" --site "$work/east"; }
west() { "$bin" "$@" --site "$work/west"; }

# serve SITE: starts a daemon and waits until it answers; the process id is in $served.
serve() {
    "$bin" serve --site "$work/$1" >>"$work/$1.log" 2>&1 &
    served=$!
    for _ in $(seq 400); do
        "$bin" pair list --site "$work/$1" >/dev/null 2>&1 && return
        kill -0 "$served" 2>/dev/null || die "the daemon of $1 ended"
        sleep 0.05
    done
    die "the daemon of $1 does not answer"
}

# free_port: a UDP port of 127.0.0.1 that nobody has.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 20000))
        grep -qi ":$(printf '%04X' $port) " /proc/net/udp /proc/net/udp6 || break
    done
    echo $port
}

# json FIELD FILE: the first such field of a JSON text.
json() { grep -o "\"$1\": *[^,}]*" "$2" | head -1 | sed 's/^[^:]*: *//; s/^"//; s/"$//; s/[[:space:]]*$//'; }

human() { numfmt --to=iec --format=%.1f "${1%.*}"; }

# same A B: contents, kinds, modes, owners, sizes, times to the nanosecond, hard links, link targets.
same() {
    diff -rq --no-dereference "$1" "$2" >"$work/differences" 2>&1 || die "$1 and $2 differ: $(head -3 "$work/differences")"
    for side in "$1" "$2"; do
        (cd "$side" && find . -type d -printf '%P %y %m %U:%G %T@\n' -o -printf '%P %y %m %U:%G %s %T@ %n %l\n' | LC_ALL=C sort) \
            >"$work/listing.$([ "$side" = "$1" ] && echo a || echo b)"
    done
    cmp -s "$work/listing.a" "$work/listing.b" || die "$1 and $2 differ: $(diff "$work/listing.a" "$work/listing.b" | head -4)"
    if command -v rsync >/dev/null; then
        rsync -aHAXSn --delete --checksum --itemize-changes "$1/" "$2/" >"$work/differences"
        [ -s "$work/differences" ] && die "rsync sees a difference: $(head -3 "$work/differences")"
    fi
    note "checked: $(wc -l <"$work/listing.a") files and folders are the same, contents and metadata"
}

rows=()
# cycle STEP PLAN: one cycle, and its row of the table; the restore point is in $point.
cycle() {
    east sync "$2" -o json >"$work/point.json" || die "sync of $2"
    point=$(json id "$work/point.json")
    rows+=("$(printf '%-34s %8s %9s %9s %9s %8.2f s' "$1" "$(json filesScanned "$work/point.json")" \
        "$(human "$(json bytesScanned "$work/point.json")")" "$(human "$(json bytesChanged "$work/point.json")")" \
        "$(human "$(json wireBytes "$work/point.json")")" "$(json durationSeconds "$work/point.json")")")
    note "restore point $point of $2: $(human "$(json wireBytes "$work/point.json")") on the wire"
}

# collect TO MEGABYTES FOLDER…: copies real folders of this machine, smaller ones first, up to a size.
collect() {
    local to=$1 left=$(($2 * 1024)) folder kib
    shift 2
    mkdir -p "$to"
    while read -r kib folder; do
        [ "$kib" -le "$left" ] || continue
        left=$((left - kib))
        cp -a "$folder" "$to/" 2>/dev/null || true
    done < <(for root in "$@"; do
        [ -d "$root" ] && find "$root" -mindepth 1 -maxdepth 1 -type d -exec du -skx {} + 2>/dev/null
    done | sort -n | awk '$1 > 64')
}

# ---- real data

say "Collecting real data"
collect "$work/source/files" 120 /usr/share /usr/lib
[ -n "$(ls -A "$work/source/files")" ] || cp -a crates "$work/source/files/"
note "files: $(find "$work/source/files" | wc -l) files and folders, $(du -sh "$work/source/files" | cut -f1), copied from /usr"

mkdir -p "$work/source/data" "$work/source/docs" "$work/source/k8s"
database=''
if command -v sqlite3 >/dev/null; then
    database=$work/source/data/shop.sqlite
    sqlite3 "$database" "PRAGMA journal_mode=WAL; CREATE TABLE orders(id INTEGER PRIMARY KEY, item TEXT, note BLOB);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<60000)
        INSERT INTO orders SELECT i, 'item ' || (i*7919%1000), randomblob(300) FROM n;" >/dev/null
    note "database: SQLite with $(sqlite3 "$database" 'SELECT count(*) FROM orders') orders, $(du -sh "$database" | cut -f1)"
fi
# Databases that programs of this machine keep, Cargo's own among them.
while IFS= read -r found; do
    [ "$(head -c 15 "$found" 2>/dev/null)" = "SQLite format 3" ] && cp -a "$found" "$work/source/data/" &&
        note "database: $found, $(du -sh "$found" | cut -f1)"
done < <(find "${CARGO_HOME:-$HOME/.cargo}" /var/lib /var/cache -xdev -maxdepth 4 -type f -size -50M \
    \( -name '*.db' -o -name '*.sqlite*' -o -name '.global-cache' \) 2>/dev/null | head -3)
for cluster in /var/lib/postgresql/*/main; do
    [ -r "$cluster/PG_VERSION" ] && [ "$(du -smx "$cluster" | cut -f1)" -lt 200 ] || continue
    cp -a "$cluster" "$work/source/data/postgresql" && note "database: PostgreSQL's $cluster, $(du -sh "$cluster" | cut -f1)"
    break
done
cp -a crates Cargo.lock "$work/source/docs/"
[ -d docs ] && cp -a docs "$work/source/docs/"
cat >"$work/source/k8s/shop.yaml" <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "nginx:1.27"}]}
YAML

# ---- the story

say "Two sites, one pair key"
for site in east west; do
    "$bin" init --site "$work/$site" --name $site --listen "127.0.0.1:$(free_port)" >/dev/null
done
serve east && east_pid=$served
serve west && west_pid=$served
key=$(west pair key)
east pair join "$key" >/dev/null
note "east and west trust each other, and nobody else"
cat >"$work/plans.yaml" <<YAML
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {name: shop}
spec:
  pair: west
  volumes:
    - {name: files, path: $work/source/files}
    - {name: data, path: $work/source/data}
  manifests: {path: $work/source/k8s}
---
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {name: docs}
spec:
  pair: west
  volumes:
    - {name: tree, path: $work/source/docs}
YAML
east plan apply -f "$work/plans.yaml"

say "First sync"
cycle "first sync (shop)" shop
cycle "first sync (docs)" docs

say "An hour of work: a database changes, files come, go and move"
if [ -n "$database" ]; then
    sqlite3 "$database" "UPDATE orders SET item = 'sold' WHERE id % 100 = 1; PRAGMA wal_checkpoint(TRUNCATE);" >/dev/null
else
    for _ in $(seq 200); do
        file=$(find "$work/source/data" -type f -size +64k | head -1)
        [ -n "$file" ] && head -c 4096 /dev/urandom | dd of="$file" bs=4096 seek=$((RANDOM % 16)) conv=notrunc status=none
    done
fi
first_folder=$(find "$work/source/files" -mindepth 1 -maxdepth 1 -type d | sort | head -1)
mv "$first_folder" "$first_folder-moved"
find "$work/source/files" -type f | sort | awk 'NR % 200 == 0' | while IFS= read -r file; do echo "a line" >>"$file"; done
find "$work/source/files" -type f | sort | awk 'NR % 300 == 7' | while IFS= read -r file; do rm -f "$file"; done
ln -s nowhere "$work/source/files/link-to-nowhere"
cycle "increment" shop
cycle "nothing changed" shop

say "kill -9 of the receiver in the middle of a cycle"
landed=no
for attempt in 1 2 3; do
    collect "$work/source/files/upload$attempt" $((80 * attempt)) /usr/lib /usr/lib/x86_64-linux-gnu /usr/lib/aarch64-linux-gnu
    head -c $((100 * attempt))000000 /dev/urandom >"$work/source/files/upload$attempt/video"
    before=$(du -sk "$work/west/store" | cut -f1)
    east sync shop >"$work/sync.out" 2>&1 &
    sync_pid=$!
    while kill -0 $sync_pid 2>/dev/null; do
        now=$(du -sk "$work/west/store" 2>/dev/null | cut -f1)
        [ $((now - before)) -gt 20000 ] && break
    done
    kill -0 $sync_pid 2>/dev/null && landed=yes
    kill -9 "$west_pid" && wait "$west_pid" 2>/dev/null || true
    serve west && west_pid=$served
    wait $sync_pid && said="the cycle went on by itself" || said=$(grep -m1 '^error:' "$work/sync.out" || true)
    [ $landed = yes ] && note "killed after $(((now - before) / 1024)) MiB had arrived; $said" && break
    note "that cycle was quicker than the kill; once more with more data"
done
cycle "after kill -9 of the receiver" shop
west verify >/dev/null && note "verify: every pack, restore point and replica is whole"

say "A bad day: somebody encrypts the documents, and the next cycle carries it over"
cycle "docs, still good" docs
good=$point
cp -a "$work/source/docs" "$work/good-docs"
find "$work/source/docs" -type f -name '*.rs' | while IFS= read -r file; do
    tr 'a-zA-Z' 'n-za-mN-ZA-M' <"$file" >"$file.locked" && rm "$file"
done
cycle "docs, encrypted" docs
bad=$point

say "The active site is gone (kill -9); the standby takes over"
kill -9 "$east_pid" && wait "$east_pid" 2>/dev/null || true
east_pid=''
grep -rhq 'replicas: 0' "$work/west/manifests/shop" || die "the Deployment is not held"
west promote shop -o json >"$work/promotion.json" || die "promotion of shop"
note "shop is at restore point $(json restorePoint "$work/promotion.json"), epoch $(json epoch "$work/promotion.json")"
same "$work/source/files" "$work/west/replicas/shop/files"
same "$work/source/data" "$work/west/replicas/shop/data"
grep -rhq 'replicas: 3' "$work/west/manifests/shop" || die "the Deployment was not released"
note "checked: the Deployment has its 3 replicas back"
if [ -n "$database" ]; then
    replica=$work/west/replicas/shop/data/shop.sqlite
    [ "$(sqlite3 "$replica" 'PRAGMA integrity_check')" = ok ] || die "SQLite's integrity check of the replica"
    note "checked: SQLite opens the replica: $(sqlite3 "$replica" "SELECT count(*) FROM orders WHERE item = 'sold'") orders sold"
fi
latest="$(json rpoSeconds "$work/promotion.json") $(json rtoSeconds "$work/promotion.json")"

west promote docs --restore-point "$good" -o json >"$work/promotion.json" || die "promotion of docs"
note "docs is at the older restore point $good, from before $bad"
same "$work/good-docs" "$work/west/replicas/docs/tree"
older="$(json rpoSeconds "$work/promotion.json") $(json rtoSeconds "$work/promotion.json")"

say "Summary"
printf '%-34s %8s %9s %9s %9s %10s\n' cycle files bytes changed wire time
printf '%s\n' "${rows[@]}"
printf '\n%-34s %10s %10s\n' promotion RPO RTO
# shellcheck disable=SC2086 # two numbers
printf '%-34s %8.2f s %8.2f s\n' "shop, newest restore point" $latest "docs, older restore point" $older
printf '\nEvery comparison was equal. %s s in all after the build.\n' $((SECONDS - started))
