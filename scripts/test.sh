#!/usr/bin/env bash
# Everything: unit, property and state-machine tests of each crate, and the black-box suites against the real program.
# Arguments go to the test programs, such as the name of one test.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/packages.sh rsync=rsync setfacl=acl setfattr=attr setcap=libcap2-bin \
    mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs openssl=openssl ip=iproute2

# Real Kubernetes, asked for with BACKSTAY_KUBE_TESTS=1: the first build of its programs takes ten minutes. Root also
# runs nodes. Without it the tests that need it count themselves as skipped.
if [ "${BACKSTAY_KUBE_TESTS:-0}" = 1 ]; then
    parts=(control deploy)
    if [ "$(id -u)" -eq 0 ]; then
        scripts/packages.sh iptables=iptables conntrack=conntrack
        parts+=(node)
    fi
    KUBEBUILDER_ASSETS=$(scripts/kube-assets.sh "${parts[@]}" | tail -n 1)
    export KUBEBUILDER_ASSETS
fi

# The suites start the program, which `cargo test` alone would not build for them.
cargo build --locked -p backstay

BACKSTAY_SKIPS=$(mktemp)
export BACKSTAY_SKIPS
trap 'rm -f "$BACKSTAY_SKIPS"' EXIT
started=$SECONDS
status=0
cargo test --locked --workspace --no-fail-fast -- "$@" || status=$?

echo
if [ -s "$BACKSTAY_SKIPS" ]; then
    echo "skipped here: $(sort -u "$BACKSTAY_SKIPS" | wc -l)"
    sort -u "$BACKSTAY_SKIPS" | sed 's/^/  /'
else
    echo "skipped here: 0"
fi
[ $status -eq 0 ] && echo "all tests passed in $((SECONDS - started)) s" || echo "tests FAILED after $((SECONDS - started)) s"
exit $status
