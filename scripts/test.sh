#!/usr/bin/env bash
# Everything: unit, property and state-machine tests of each crate, and the black-box suites against the real program.
# Arguments go to the test programs, such as the name of one test.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/packages.sh rsync=rsync setfacl=acl setfattr=attr setcap=libcap2-bin \
    mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs openssl=openssl ip=iproute2

# Real Kubernetes. BACKSTAY_KUBE_TESTS=1 builds its programs if need be, which takes ten minutes once; 0 leaves it out;
# without either it runs where they are built already, else the tests that need it count themselves as skipped. Root
# also runs nodes.
if [ "${BACKSTAY_KUBE_TESTS:-}" != 0 ]; then
    parts=(control deploy)
    [ "$(id -u)" -ne 0 ] || parts+=(node)
    [ "${BACKSTAY_KUBE_TESTS:-}" = 1 ] || parts=(--found "${parts[@]}")
    if assets=$(scripts/kube-assets.sh "${parts[@]}"); then
        KUBEBUILDER_ASSETS=$(tail -n 1 <<<"$assets")
        export KUBEBUILDER_ASSETS BACKSTAY_KUBE_TESTS=1
        [ "$(id -u)" -ne 0 ] || scripts/packages.sh iptables=iptables conntrack=conntrack
    elif [ "${BACKSTAY_KUBE_TESTS:-}" = 1 ]; then
        exit 1
    fi
fi

BACKSTAY_SKIPS=$(mktemp)
export BACKSTAY_SKIPS
trap 'rm -f "$BACKSTAY_SKIPS"' EXIT
# Most tests wait for daemons, and not for a processor.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}
started=$SECONDS
status=0
# Also builds the program that the suites start: the tests of its exit codes are in its own package. A build of it before
# would be of other features, and build much twice.
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
