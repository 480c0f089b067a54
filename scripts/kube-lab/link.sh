#!/usr/bin/env bash
# The only link between the network namespaces ka and kb: made, changed or cut while both sides run.
#   link.sh veth                            as fast as the machine
#   link.sh wan DELAY [LOSS [MBIT]]         one-way delay such as 25ms, share of packets lost, rate of each direction
#   link.sh down                            cut: packets vanish without a word, as they do in a real network
#   link.sh remove                          the namespaces go too
# Node addresses, 10.231.1.1 and 10.231.2.1, stand on a bridge of their own and are where connections come from, so that
# connections outlive a change of the link. Needs root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
dir=$lab/link
mkdir -p "$dir"/{log,pid}

make_site() { # NAMESPACE ADDRESS
    [ ! -e "/run/netns/$1" ] || return 0
    ip netns add "$1"
    ip -n "$1" link set lo up
    ip -n "$1" link add node0 type bridge
    ip -n "$1" link set node0 up
    ip -n "$1" addr add "$2/24" dev node0
    # kube-proxy rewrites service addresses only on packets that have a route, and for pods on one bridge only when told.
    ip -n "$1" route add 10.96.0.0/12 dev node0
    nsenter --net="/run/netns/$1" sh -c 'cd /proc/sys/net
        echo 1 >ipv4/ip_forward; ! [ -e bridge ] || echo 1 >bridge/bridge-nf-call-iptables'
}

fast() {
    ip link add lab0 netns ka type veth peer name lab0 netns kb
    ip -n ka addr add 10.231.0.1/30 dev lab0
    ip -n kb addr add 10.231.0.2/30 dev lab0
    ip -n ka link set lab0 up
    ip -n kb link set lab0 up
}

slow() { # DELAY [LOSS [MBIT]]
    start wan "$bin/wan" -delay "$1" -loss "${2:-0}" -mbit "${3:-0}" ka=10.231.0.1/30 kb=10.231.0.2/30
    await 5 "the link" ip -n kb addr show dev wan0 up
}

gone() { ! ip -n ka link show wan0 && ! ip -n kb link show wan0; }

stop wan KILL
# Its ends outlive it for a moment, and would take the new routes with them.
await 5 "the end of the old link" gone
ip -n ka link del lab0 2>/dev/null || true # not there: it was another kind of link
if [ "$1" = remove ]; then
    for site in ka kb; do [ ! -e /run/netns/$site ] || ip netns del $site; done
    exit
fi
make_site ka 10.231.1.1
make_site kb 10.231.2.1
case $1 in
veth) fast ;;
wan) slow "${@:2}" ;;
down) slow 0 1 ;;
*) echo "error: unknown verb '$1'" >&2 && exit 2 ;;
esac
# Nodes and pods of the other side.
for range in 10.231.2.0/24 10.245.0.0/16; do ip -n ka route replace $range via 10.231.0.2 src 10.231.1.1; done
for range in 10.231.1.0/24 10.244.0.0/16; do ip -n kb route replace $range via 10.231.0.1 src 10.231.2.1; done
