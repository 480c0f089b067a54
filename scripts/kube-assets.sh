#!/usr/bin/env bash
# Finds, or builds once, the real Kubernetes that tests run on; the last line printed is the folder that holds it.
#   kube-assets.sh [control]   etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl
#   kube-assets.sh node        besides: kubelet, kube-proxy, containerd, runc, CNI plugins, images, a slow link (for root)
#   kube-assets.sh deploy      helm, which renders the chart; three minutes with empty Go caches
#   kube-assets.sh --found …   the same, but nothing is built: exit code 3 if something is missing
# Looked for in $KUBEBUILDER_ASSETS, then in the cache. What is missing there is built from the pinned modules of
# tests/kube-tools: on 2 cores 5 minutes for `control` and 2 more for `node` with empty Go caches, nothing after that.
# A program appears in the cache complete or not at all; a change of any pin is a new folder of some 600 MB, and the
# older ones can be deleted.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/tests/kube-tools
control=(etcd kube-apiserver kube-controller-manager kube-scheduler kubectl)
node=(kubelet kube-proxy containerd containerd-shim-runc-v2 ctr runc
    cni/bridge cni/host-local cni/loopback images.tar wan)
deploy=(helm)

found_only=
if [ "${1:-}" = --found ]; then found_only=1 && shift; fi
wanted=()
for part in "${@:-control}"; do
    case $part in
    control) wanted+=("${control[@]}") ;;
    node) wanted+=("${node[@]}") ;;
    deploy) wanted+=("${deploy[@]}") ;;
    *) echo "error: unknown part '$part'; parts are control, node and deploy" >&2 && exit 2 ;;
    esac
done

missing_in() { # FOLDER: the wanted files that it lacks
    local file
    for file in "${wanted[@]}"; do [ -s "$1/$file" ] || echo "$file"; done
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    missing=$(missing_in "$KUBEBUILDER_ASSETS" | xargs)
    [ -z "$missing" ] && echo "$KUBEBUILDER_ASSETS" && exit
    echo "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS lacks $missing; using the cache instead" >&2
fi

version=$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" {print $3}' "$tools/kubernetes/go.mod")
# Without helm's pins, which lie beside it instead: another helm is no reason to build all the rest anew.
pins=$(find "$tools" -path "$tools/helm" -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 cat | sha256sum | cut -c1-8)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/backstay/kube-$version-$pins
cmp -s "$tools/helm/go.sum" "$folder/helm.pins" || rm -f "$folder/helm"
[ -z "$(missing_in "$folder")" ] && echo "$folder" && exit

[ -z "$found_only" ] || exit 3

PATH=$PATH:/usr/local/go/bin # where Go's own installation puts it
if ! command -v go >/dev/null; then
    echo "error: Kubernetes is not built yet in $folder, and there is no 'go' to build it" >&2
    echo "hint: install Go from https://go.dev/dl, or set KUBEBUILDER_ASSETS to a folder with: ${wanted[*]}" >&2
    exit 1
fi
mkdir -p "$folder/cni"
exec 9>"$folder/.lock"
flock 9 # a second caller waits here, and then finds everything made

ready() { # FILE: gives it its name, whole
    mv "$folder/$1.part" "$folder/$1"
}

compile() { # FILE MODULE PACKAGE [LDFLAGS]
    local started=$SECONDS
    [ -s "$folder/$1" ] && return
    echo "building $1" >&2
    (cd "$tools/$2" && CGO_ENABLED=${cgo:-0} GOFLAGS=-buildvcs=false go build -mod=readonly -trimpath \
        ${tags:+-tags "$tags"} -ldflags "-s -w ${4:-}" -o "$folder/$1.part" "$3")
    ready "$1"
    echo "built $1 in $((SECONDS - started)) s" >&2
}

kubernetes() { # FILE: without these flags it would call itself v0.0.0-master, and mislead clients
    local v=k8s.io/component-base/version major minor
    IFS=. read -r major minor _ <<<"${version#v}"
    compile "$1" kubernetes "k8s.io/kubernetes/cmd/$1" \
        "-X $v.gitVersion=$version -X $v.gitMajor=$major -X $v.gitMinor=$minor -X $v.gitTreeState=clean"
}

for file in "${wanted[@]}"; do
    case $file in
    etcd) compile etcd etcd go.etcd.io/etcd/server/v3 ;;
    kube*) kubernetes "$file" ;;
    containerd* | ctr) compile "$file" containerd "github.com/containerd/containerd/v2/cmd/$file" ;;
    runc)
        # Its first step is C, and without seccomp it starts no pod. Static, so that the cache outlives the machine.
        [ -s "$folder/runc" ] || scripts/packages.sh gcc=gcc pkg-config=pkg-config >&2
        [ -s "$folder/runc" ] || pkg-config --exists libseccomp || scripts/packages.sh libseccomp=libseccomp-dev >&2
        cgo=1 tags=seccomp,netgo,osusergo compile runc runc github.com/opencontainers/runc \
            "-linkmode external -extldflags -static"
        ;;
    cni/host-local) compile "$file" cni github.com/containernetworking/plugins/plugins/ipam/host-local ;;
    cni/*) compile "$file" cni "github.com/containernetworking/plugins/plugins/main/${file#*/}" ;;
    images.tar)
        [ -s "$folder/$file" ] && continue
        scripts/packages.sh busybox=busybox-static >&2
        "$tools/images.sh" "$folder/$file.part"
        ready "$file"
        ;;
    wan) compile wan wan . ;;
    helm)
        cp "$tools/helm/go.sum" "$folder/helm.pins"
        compile helm helm helm.sh/helm/v4/cmd/helm
        ;;
    esac
done
echo "$folder"
