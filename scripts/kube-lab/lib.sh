# Sourced by the scripts of this folder: where things are, and how to run, stop and await them in a cluster.
#
# A cluster is a folder with a file `settings`, written before all else: name, ip, netns (empty on loopback), the ranges
# services and pods, and the ports etcd_port, peer_port, api_port, controllers_port, scheduler_port.
lab=${BACKSTAY_KUBE_LAB:-/tmp/backstay-kube-lab}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${KUBEBUILDER_ASSETS:?set it to the folder that scripts/kube-assets.sh prints}

cluster() { # FOLDER
    dir=$1 pki=$1/pki
    . "$dir/settings"
    node=$name-node
    inside=()
    [ -z "$netns" ] || inside=(nsenter --net="/run/netns/$netns") # `ip netns exec` would hide /sys/fs/cgroup
    mkdir -p "$dir"/{log,pid} && mkdir -p -m 700 "$pki"
}

kube() { "${inside[@]}" "$bin/kubectl" --kubeconfig "$dir/kubeconfig" "$@"; }

alive() { grep -qs '^State:.[^Z]' "/proc/$1/status"; } # kill -0 would call a zombie alive

start() { # LABEL COMMAND...
    local label=$1
    shift
    [ -e "$dir/pid/$label" ] && alive "$(cat "$dir/pid/$label")" && return
    KUBE_LAB_OF=$dir setsid nohup "$@" >>"$dir/log/$label.log" 2>&1 </dev/null &
    echo $! >"$dir/pid/$label"
}

stop() { # LABEL SIGNAL: only a process that start made, known by its pid and its environment
    local file=$dir/pid/$1 pid
    [ -e "$file" ] || return 0
    pid=$(cat "$file")
    if grep -qszxF "KUBE_LAB_OF=$dir" "/proc/$pid/environ"; then
        kill "-$2" "$pid" 2>/dev/null || true
        for _ in $(seq 100); do alive "$pid" && sleep 0.05 || break; done
        ! alive "$pid" || kill -KILL "$pid"
    fi
    rm -f "$file"
}

await() { # SECONDS WHAT COMMAND...
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || { echo "error: waited in vain for $what; see $dir/log" >&2 && return 1; }
        sleep 0.1
    done
}

issue() { # NAME SUBJECT EXTENSIONS [OPENSSL_FLAGS]: a key and a certificate, once
    [ -s "$pki/$1.crt" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
        -subj "$2" -keyout "$pki/$1.key" -out "$pki/$1.crt" "${@:4}" 2>"$pki/openssl.log" \
        -config <(printf '[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\n%b\n' "$3")
}

cert() { # NAME COMMON_NAME GROUP [ADDRESSES]: for a client and a server, by the cluster's authority
    local extensions='basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth,serverAuth'
    issue "$1" "/O=$3/CN=$2" "$extensions${4:+\\nsubjectAltName=$4}" -CA "$pki/ca.crt" -CAkey "$pki/ca.key"
}

kubeconfig() { # FILE CERTIFICATE
    cat >"$1" <<YAML
apiVersion: v1
kind: Config
current-context: $name
contexts: [{name: $name, context: {cluster: $name, user: $2}}]
clusters:
- {name: $name, cluster: {server: "https://$ip:$api_port", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}}
users:
- {name: $2, user: {client-certificate-data: $(base64 -w0 "$pki/$2.crt"), client-key-data: $(base64 -w0 "$pki/$2.key")}}
YAML
}
