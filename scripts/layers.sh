#!/usr/bin/env bash
# Checks the layers of ARCHITECTURE.md against the real dependency graph: who may use which of our crates, and which
# outside crates only one layer may touch.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
complain() {
    echo "error: $1" >&2
    failed=1
}

# The direct dependencies of a crate, without those of its tests.
direct() {
    cargo tree --locked --quiet -p "$1" --edges normal,build --depth 1 --prefix none --format '{p}' |
        tail -n +2 | cut -d' ' -f1 | sort -u
}

# Our own crates: each may depend on these and no others.
allowed() {
    case $1 in
        backstay-types) ;;
        backstay-engine | backstay-store | backstay-volume | backstay-net | backstay-kube) echo backstay-types ;;
        backstay-daemon)
            echo backstay-types backstay-engine backstay-store backstay-volume backstay-net backstay-kube ;;
        backstay) echo backstay-types backstay-daemon backstay-kube backstay-store ;;
    esac
}
crates="backstay-types backstay-engine backstay-store backstay-volume backstay-net backstay-kube backstay-daemon backstay"
for crate in $crates; do
    for dependency in $(direct "$crate" | grep '^backstay' || true); do
        case " $(allowed "$crate" | tr '\n' ' ') " in
            *" $dependency "*) ;;
            *) complain "$crate must not depend on $dependency" ;;
        esac
    done
done

# Outside crates with one home.
only_in() {
    local library=$1 home=$2
    for crate in $crates; do
        if [ "$crate" != "$home" ] && direct "$crate" | grep -qx "$library"; then
            complain "$crate must not use $library: only $home may"
        fi
    done
}
for library in quinn rustls rcgen tokio-rustls; do only_in $library backstay-net; done
only_in sled backstay-store
only_in fastcdc backstay-volume
only_in kube backstay-kube
only_in k8s-openapi backstay-kube
only_in anyhow backstay

# Decisions and the contract are pure: nothing that reads clocks, files or sockets, at any depth.
for crate in backstay-types backstay-engine; do
    for library in tokio mio socket2 rustix quinn sled rand hyper axum; do
        if cargo tree --locked --quiet -p "$crate" --edges normal --prefix none --format '{p}' | cut -d' ' -f1 | grep -qx "$library"; then
            complain "$crate must not reach $library, not even through another crate"
        fi
    done
done

[ $failed -eq 0 ] && echo "layers hold"
exit $failed
