#!/usr/bin/env bash
# images.sh OUT: the two images that test pods need, out of Debian's static busybox, as an archive for `ctr image import`.
# Both are one layer: localhost/busybox:1, and the sandbox image that containerd is configured for.
set -euo pipefail
out=$1
busybox=$(command -v busybox)
if ldd "$busybox" >/dev/null 2>&1; then
    echo "error: $busybox needs libraries, which an image of it would lack" >&2
    echo "hint: sudo apt-get install busybox-static" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=$work/root
mkdir -p "$root"/{bin,data,etc,tmp}
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
for applet in $(busybox --list | grep -vx busybox); do ln -s busybox "$root/bin/$applet"; done
echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"

pack() { tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner "$@"; }
pack --file "$work/layer.tar" -C "$root" .
layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)

image() { # NAME COMMAND_JSON: its configuration, and its entry of the manifest on stdout
    local file=${1//[^a-z0-9]/-}.json
    cat >"$work/$file" <<JSON
{"architecture": "$(go env GOARCH)", "os": "linux", "config": {"Cmd": $2, "Env": ["PATH=/bin"], "WorkingDir": "/"},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}}
JSON
    echo "{\"Config\": \"$file\", \"RepoTags\": [\"$1\"], \"Layers\": [\"layer.tar\"]}"
}
shell=$(image localhost/busybox:1 '["sh"]')
sandbox=$(image localhost/pause:1 '["sleep", "infinity"]')
echo "[$shell, $sandbox]" >"$work/manifest.json"
pack --file "$out" -C "$work" manifest.json layer.tar localhost-busybox-1.json localhost-pause-1.json
