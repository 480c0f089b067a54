#!/usr/bin/env bash
# The control plane of the cluster in FOLDER (see lib.sh):
#   control-plane.sh FOLDER keys                      certificates and kubeconfigs, once; FOLDER/kubeconfig is the administrator's
#   control-plane.sh FOLDER COMPONENT [FLAGS]         becomes etcd, apiserver, controllers or scheduler, in the foreground
#   control-plane.sh FOLDER up | down | crash         all of them in the background; crash is SIGKILL
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cluster "$1"
verb=$2
shift 2
# A server that lives for a minute has memory to spend rather than time.
export GOGC=${GOGC:-400}

keys() {
    issue ca "/CN=$name-ca" 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash'
    cert apiserver kube-apiserver kube \
        "IP:127.0.0.1,IP:$ip,IP:${services%.*}.1,DNS:localhost,DNS:kubernetes.default,DNS:kubernetes.default.svc"
    cert admin admin system:masters
    cert kubelet-client kube-apiserver-kubelet-client system:masters
    cert controllers system:kube-controller-manager system:kube-controller-manager
    cert scheduler system:kube-scheduler system:kube-scheduler
    [ -s "$pki/accounts.pub" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$pki/accounts.key"
    [ -s "$pki/accounts.pub" ] || openssl pkey -in "$pki/accounts.key" -pubout -out "$pki/accounts.pub"
    kubeconfig "$dir/kubeconfig" admin
    kubeconfig "$pki/controllers.kubeconfig" controllers
    kubeconfig "$pki/scheduler.kubeconfig" scheduler
}

etcd() {
    local clients=http://127.0.0.1:$etcd_port peers=http://127.0.0.1:$peer_port
    mkdir -p -m 700 "$dir/etcd"
    # Without fsync: what is tested is not whether etcd outlives a power cut.
    exec "${inside[@]}" "$bin/etcd" --name "$name" --data-dir "$dir/etcd" --unsafe-no-fsync \
        --listen-client-urls "$clients" --advertise-client-urls "$clients" --listen-peer-urls "$peers" \
        --initial-advertise-peer-urls "$peers" --initial-cluster "$name=$peers" "$@"
}

apiserver() {
    # A loopback address cannot be an endpoint of the kubernetes Service.
    local where=(--bind-address=127.0.0.1 --endpoint-reconciler-type=none)
    [ -z "$netns" ] || where=(--bind-address=0.0.0.0)
    exec "${inside[@]}" "$bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd_port" "${where[@]}" \
        --secure-port="$api_port" --advertise-address="$ip" --service-cluster-ip-range="$services" \
        --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
        --service-account-key-file="$pki/accounts.pub" --service-account-signing-key-file="$pki/accounts.key" \
        --service-account-issuer=https://kubernetes.default.svc --cert-dir="$dir" --allow-privileged=true \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
        --kubelet-client-certificate="$pki/kubelet-client.crt" --kubelet-client-key="$pki/kubelet-client.key" \
        --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP "$@"
}

as() { # IDENTITY PORT: flags of a component that is a client
    local config=$pki/$1.kubeconfig
    echo --kubeconfig="$config" --authentication-kubeconfig="$config" --authorization-kubeconfig="$config" \
        --bind-address=127.0.0.1 --secure-port="$2" --cert-dir="$dir" --leader-elect=false
}

controllers() {
    exec "${inside[@]}" "$bin/kube-controller-manager" $(as controllers "$controllers_port") \
        --service-account-private-key-file="$pki/accounts.key" --root-ca-file="$pki/ca.crt" \
        --use-service-account-credentials --allocate-node-cidrs --cluster-cidr="$pods" \
        --service-cluster-ip-range="$services" --pvclaimbinder-sync-period=1s "$@"
}

scheduler() { exec "${inside[@]}" "$bin/kube-scheduler" $(as scheduler "$scheduler_port") "$@"; }

case $verb in
keys | etcd | apiserver | controllers | scheduler) $verb "$@" ;;
up)
    keys
    start etcd "$0" "$dir" etcd
    start apiserver "$0" "$dir" apiserver
    await 60 "kube-apiserver of $name" kube get --raw /readyz
    start controllers "$0" "$dir" controllers
    start scheduler "$0" "$dir" scheduler
    await 60 "the default service account of $name" kube -n default get serviceaccount default
    ;;
down) for label in scheduler controllers apiserver etcd; do stop $label TERM; done ;;
crash) for label in scheduler controllers apiserver etcd; do stop $label KILL; done ;;
*) echo "error: unknown verb '$verb'" >&2 && exit 2 ;;
esac
