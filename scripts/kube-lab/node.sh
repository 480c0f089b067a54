#!/usr/bin/env bash
# The one real node of the cluster in FOLDER (see lib.sh), in its network namespace: containerd, runc, kubelet, kube-proxy.
#   node.sh FOLDER up               also brings a crashed node back, with its pods
#   node.sh FOLDER down             ends it in good order; no container is left
#   node.sh FOLDER crash            a power cut: everything is killed at once, its state stays
# Needs root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cluster "$1"
work=$dir/node
group=kube-lab-$name
ctr=("$bin/ctr" --address "$work/containerd.sock" --namespace k8s.io)

write_containerd() {
    cat >"$work/containerd.toml" <<TOML
version = 3
root = "$work/root"
state = "$work/state"
[grpc]
  address = "$work/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "localhost/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE runc may not lower it: "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["$bin/cni"]
  conf_dir = "$work/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "$bin/runc"
[plugins.'io.containerd.internal.v1.opt']
  path = "$work/opt"
TOML
    cat >"$work/cni/10-bridge.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$work/ipam", "ranges": [[{"subnet": "${pods%.0.0/16}.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "loopback"}]}
JSON
}

write_kubelet() {
    cert node "system:node:$node" system:nodes "IP:$ip,IP:127.0.0.1,DNS:$node"
    cert proxy system:kube-proxy system:node-proxier
    kubeconfig "$pki/node.kubeconfig" node
    kubeconfig "$pki/proxy.kubeconfig" proxy
    cat >"$work/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$group
containerRuntimeEndpoint: unix://$work/containerd.sock
podLogsDir: $work/podlogs
volumePluginDir: $work/plugins
address: $ip
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/node.crt
tlsPrivateKeyFile: $pki/node.key
failSwapOn: false
resolvConf: ""
evictionHard: {memory.available: 100Mi}
nodeStatusUpdateFrequency: 4s
YAML
}

make_cgroups() {
    local hierarchy file
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then # version 2: one hierarchy
        mkdir -p "/sys/fs/cgroup/$group"
        return
    fi
    for hierarchy in /sys/fs/cgroup/{cpu,cpuacct,cpuset,memory,devices,freezer,blkio,pids,systemd}; do
        [ -d "$hierarchy" ] || continue
        mkdir -p "$hierarchy/$group"
        [ "${hierarchy##*/}" = cpuset ] || continue
        for file in cpus mems; do cat "$hierarchy/cpuset.$file" >"$hierarchy/$group/cpuset.$file"; done
    done
}

up() {
    mkdir -p "$work"/{cni,kubelet,podlogs,plugins}
    write_containerd
    write_kubelet
    make_cgroups
    PATH=$bin:$PATH # containerd looks for its shim there
    start containerd "${inside[@]}" "$bin/containerd" --config "$work/containerd.toml"
    await 30 "containerd of $name" "${ctr[@]}" version
    "${ctr[@]}" image import "$bin/images.tar" >/dev/null
    start kubelet "${inside[@]}" "$bin/kubelet" --config="$work/kubelet.yaml" --kubeconfig="$pki/node.kubeconfig" \
        --root-dir="$work/kubelet" --hostname-override="$node" --node-ip="$ip" --cert-dir="$work"
    start proxy "${inside[@]}" "$bin/kube-proxy" --kubeconfig="$pki/proxy.kubeconfig" --proxy-mode=iptables \
        --cluster-cidr="$pods" --hostname-override="$node" --bind-address="$ip" \
        --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
    # A node that crashed is still called ready: so ask itself first.
    await 60 "the kubelet of $node" kube get --raw "/api/v1/nodes/$node/proxy/healthz"
    await 60 "node $node" kube wait --for=condition=Ready "node/$node" --timeout=1s
}

end() { # SIGNAL
    local tasks task
    stop kubelet "$1"
    stop proxy "$1"
    for _ in $(seq 20); do # a container ends some time after it was killed
        tasks=$("${ctr[@]}" task ls -q 2>/dev/null || true)
        [ -n "$tasks" ] || break
        for task in $tasks; do "${ctr[@]}" task kill --signal KILL --all "$task" 2>/dev/null || true; done
        for task in $tasks; do "${ctr[@]}" task rm --force "$task" >/dev/null 2>&1 || true; done
        sleep 0.1
    done
    [ "$1" = KILL ] || "${ctr[@]}" container ls -q 2>/dev/null |
        xargs -r "${ctr[@]}" container rm >/dev/null 2>&1 || true
    stop containerd "$1"
    awk -v work="$work/" 'index($2, work) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
    find /sys/fs/cgroup -depth -type d -path "*/$group*" -exec rmdir {} + 2>/dev/null || true
}

case $2 in
up) up ;;
down) end TERM ;;
crash) end KILL ;;
*) echo "error: unknown verb '$2'" >&2 && exit 2 ;;
esac
