#!/usr/bin/env bash
# The whole story on two real Kubernetes clusters of this machine, joined by a slow link: an application with a volume
# is replicated on a schedule, its cluster loses power, one command promotes, and its pods run on the other side with
# the data. RPO and RTO are measured from what the application wrote. Needs root; the first run builds Kubernetes
# (scripts/kube-assets.sh, ten minutes), later ones take a minute and a half.
#
#   scripts/demo-kube.sh           build and run; nothing is left behind
#   KEEP=1 scripts/demo-kube.sh    leave both clusters up for a closer look; scripts/kube-lab/pair.sh down ends them
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
note() { printf '  %s\n' "$*"; }
die() {
    printf 'demo FAILED: %s\n' "$*" >&2
    for log in "$lab"/k?/backstay.log; do
        [ -f "$log" ] && printf -- '--- %s\n' "$log" >&2 && tail -n 20 "$log" >&2
    done
    exit 1
}

[ "$(id -u)" -eq 0 ] || { echo "error: nodes with pods need root" >&2 && exit 1; }
scripts/packages.sh ip=iproute2 iptables=iptables conntrack=conntrack openssl=openssl mkfs.btrfs=btrfs-progs
KUBEBUILDER_ASSETS=$(scripts/kube-assets.sh control node | tail -n 1)
export KUBEBUILDER_ASSETS
export BACKSTAY_KUBE_LAB=${BACKSTAY_KUBE_LAB:-/tmp/backstay-kube-lab}
lab=$BACKSTAY_KUBE_LAB
if [ -n "${BACKSTAY_BIN:-}" ]; then
    bin=$BACKSTAY_BIN
else
    say "Building (once)"
    cargo build --locked --release -p backstay
    bin=${CARGO_TARGET_DIR:-$PWD/target}/release/backstay
fi
started=$SECONDS

exec 8>"$(dirname "$lab")/backstay-kube-lab.lock"
flock 8 # one pair of clusters stands on a machine
daemons=''
# The volumes lie on btrfs, each a subvolume: a snapshot shows it at one instant however its pod writes.
disk=$(mktemp -d /tmp/backstay-demo-disk-XXXXXX)
data=$disk/mount
clean_up() {
    for pid in $daemons; do
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [ -n "${KEEP:-}" ]; then
        echo "left in $lab and $disk"
        return
    fi
    scripts/kube-lab/pair.sh down 8>&-
    if mountpoint -q "$data"; then umount --lazy "$data"; fi
    rm -r "$disk"
}
trap clean_up EXIT
truncate -s 512M "$disk/image"
mkfs.btrfs -q "$disk/image"
mkdir "$data"
mount -o loop "$disk/image" "$data"

# ---- helpers: SITE is ka or kb

inside() { nsenter --net="/run/netns/$1" "${@:2}"; }
kube() { inside "$1" "$KUBEBUILDER_ASSETS/kubectl" --kubeconfig "$lab/$1/kubeconfig" "${@:2}"; }
backstay() { "$bin" "${@:2}" --site "$lab/$1/site"; }
json() { grep -o "\"$1\": *[^,}]*" "$2" | head -1 | sed 's/^[^:]*: *//; s/^"//; s/"$//; s/[[:space:]]*$//'; }
now() { date +%s.%N; }
since() { awk -v from="$1" -v to="$(now)" 'BEGIN {print to - from}'; }
await() { # SECONDS WHAT COMMAND...
    local until=$((SECONDS + $1))
    until "${@:3}" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || die "waited in vain for $2"
        sleep 0.1
    done
}
serve() { # SITE ADDRESS: starts a daemon beside its cluster; the process id is in $served
    backstay "$1" init --name "$1" --listen "$2:7443" >/dev/null
    # Not through a function: its process id would be that of a shell.
    env BACKSTAY_KUBERNETES_KUBECONFIG="$lab/$1/kubeconfig" BACKSTAY_KUBERNETES_NODE="$1-node" \
        BACKSTAY_KUBERNETES_CONTROLLERS=true \
        nsenter --net="/run/netns/$1" "$bin" serve --site "$lab/$1/site" >"$lab/$1/backstay.log" 2>&1 8>&- &
    served=$!
    await 30 "the daemon of $1" backstay "$1" pair list
}
points() { backstay kb restore-points shop -o json | grep -c '"id"'; }
last_line() { tail -n 1 "$1" 2>/dev/null || true; }

# ---- the story

say "Two clusters, ka and kb, 25 ms and 200 Mbit/s apart"
scripts/kube-lab/pair.sh up wan 25ms 0.001 200 8>&-
for site in ka kb; do
    note "$site: $(kube $site version -o json | grep -o '"gitVersion": "[^"]*"' | tail -1 | cut -d'"' -f4), node $(kube $site get nodes -o name)"
    "$bin" crds | kube $site apply --server-side -f - >/dev/null
    kube $site wait --for=condition=Established crd/replicationplans.backstay.dev --timeout=30s >/dev/null
done
serve ka 10.231.1.1 && daemons+=" $served" && ka_pid=$served
serve kb 10.231.2.1 && daemons+=" $served"
backstay ka pair join "$(backstay kb pair key)" >/dev/null
note "Backstay runs beside both, its custom resources are installed, and the sites are paired"

say "An application: two pods that write orders, ten a second, into their volumes"
for n in 0 1; do btrfs -q subvolume create "$data/$n"; done
{
    echo '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}'
    for n in 0 1; do
        cat <<YAML
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: orders-$n}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: local
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: shop, name: orders-shop-$n}
  hostPath: {path: $data/$n}
YAML
    done
    cat <<'YAML'
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {greeting: "hello from the active site"}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: shop}
spec: {clusterIP: None, selector: {app: shop}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: shop, namespace: shop}
spec:
  replicas: 2
  serviceName: shop
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: shop
        image: localhost/busybox:1
        imagePullPolicy: Never
        envFrom: [{configMapRef: {name: settings}}]
        command: [sh, -c, 'i=$(tail -n 1 /data/orders 2>/dev/null | cut -d" " -f1); i=${i:-0}; while :; do i=$((i + 1)); echo "$i $(date +%s)" >>/data/orders; sleep 0.1; done']
        volumeMounts: [{name: orders, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: orders}
    spec: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Gi}}}
YAML
} | kube ka apply -f - >/dev/null
await 90 "the pods of the application" kube ka wait -n shop --for=condition=Ready pod/shop-0 pod/shop-1 --timeout=1s
await 30 "their first orders" test -s "$data/1/orders"
note "running: $(kube ka get pods -n shop -o name | xargs)"

say "One plan, as a custom resource: the namespace, every five seconds"
cat <<'YAML' | kube ka apply -f - >/dev/null
apiVersion: backstay.dev/v1alpha1
kind: ReplicationPlan
metadata: {name: shop, namespace: shop}
spec:
  pair: kb
  namespaces: [shop]
  schedule: {interval: 5s}
  rpoTarget: 15s
  minimumConsistency: crashPerVolume # the pods' lists have nothing to do with each other
YAML
enough() { [ "$(points)" -ge 4 ]; }
await 90 "four restore points" enough
kube ka get replicationplan -n shop shop | sed 's/^/  /'
backstay kb restore-points shop | sed 's/^/  /'
note "on kb, held: $(kube kb get statefulset -n shop shop -o jsonpath='{.spec.replicas}') of 2 replicas, $(kube kb get pods -n shop -o name | wc -l) pods"

say "ka loses power: its node, its API server, its Backstay, at one blow"
wait_for=$(points)
newer() { [ "$(points)" -gt "$wait_for" ]; }
await 30 "one more restore point" newer
scripts/kube-lab/node.sh "$lab/ka" crash 8>&- &
crashing=$!
kill -9 "$ka_pid" && wait "$ka_pid" 2>/dev/null || true
scripts/kube-lab/control-plane.sh "$lab/ka" crash 8>&-
wait $crashing
wrote=$(last_line "$data/0/orders")
note "the last order of shop-0 is number ${wrote% *}"

say "backstay promote shop"
asked=$(now)
backstay kb promote shop | sed 's/^/  /'
promoted=$(since "$asked")
await 90 "the pods on kb" kube kb wait -n shop --for=condition=Ready pod/shop-0 pod/shop-1 --timeout=1s
running=$(since "$asked")
replica=$(kube kb get pv orders-0 -o jsonpath='{.spec.hostPath.path}')
# The pod goes on where the restore point ended: its first own order comes after the old site's last one in time.
kept=$(awk -v asked="${asked%.*}" '$2 < asked {last = $0} END {print last}' "$replica/orders")
grows() { [ "$(last_line "$replica/orders")" != "$kept" ]; }
await 30 "new orders on kb" grows
kube kb get pods -n shop -o wide | cut -c1-80 | sed 's/^/  /'
cmp -s <(head -n "${kept% *}" "$replica/orders") <(head -n "${kept% *}" "$data/0/orders") ||
    die "the orders on kb are not those of ka"
note "every one of the ${kept% *} orders up to the restore point is there, and shop-0 goes on after it: $(last_line "$replica/orders" | cut -d' ' -f1)"

say "Summary"
printf '  %-44s %s\n' \
    "orders written on ka (shop-0)" "${wrote% *}" \
    "orders on kb after the takeover" "${kept% *}" \
    "RPO, by the orders' own clock" "$((${wrote#* } - ${kept#* })) s" \
    "RTO, from the command to all objects released" "$(printf '%.2f s' "$promoted")" \
    "    … to both pods ready" "$(printf '%.2f s' "$running")"
printf '\n%s s in all after the build.\n' $((SECONDS - started))
