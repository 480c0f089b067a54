#!/usr/bin/env bash
# Everything: unit, property and state-machine tests of each crate, and the black-box suites against the real program.
# Arguments go to the test programs, such as the name of one test.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/packages.sh rsync=rsync setfacl=acl setfattr=attr setcap=libcap2-bin \
    mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs openssl=openssl ip=iproute2 \
    busybox=busybox-static pg_ctlcluster=postgresql

# Real Kubernetes, whose programs are built once for all clones, in some ten minutes. BACKSTAY_KUBE_TESTS=0 leaves it out,
# and its tests are then counted as skipped. Root also runs nodes.
if [ "${BACKSTAY_KUBE_TESTS:-1}" != 0 ]; then
    parts=(control deploy)
    [ "$(id -u)" -ne 0 ] || parts+=(node)
    assets=$(scripts/kube-assets.sh "${parts[@]}")
    KUBEBUILDER_ASSETS=$(tail -n 1 <<<"$assets")
    export KUBEBUILDER_ASSETS BACKSTAY_KUBE_TESTS=1
    [ "$(id -u)" -ne 0 ] || scripts/packages.sh iptables=iptables conntrack=conntrack
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
echo "skipped here: $(sort -u "$BACKSTAY_SKIPS" | wc -l)"
sort -u "$BACKSTAY_SKIPS" | sed 's/^/  /'
# The test runner counts them as passed.
if [ -s "$BACKSTAY_SKIPS" ] && [ -n "${BACKSTAY_SKIPS_FAIL:-}" ]; then
    status=1
fi
[ $status -eq 0 ] && echo "all tests passed in $((SECONDS - started)) s" || echo "tests FAILED after $((SECONDS - started)) s"
exit $status
