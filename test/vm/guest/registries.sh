# Sourced after devices.sh by scripts that need a registry inside the machine; $layout is the OCI layout it offers as the
# repository "debian".

start_docker_registry() { # PORT
  mkdir -p /tmp/docker-registry
  cat >/tmp/docker-registry.yml <<YAML
version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: /tmp/docker-registry } }
http: { addr: 127.0.0.1:$1 }
YAML
  docker-registry serve /tmp/docker-registry.yml >/tmp/docker-registry.log 2>&1 &
  registry_pid=$!
  wait_for_registry "$1"
  skopeo copy --quiet --preserve-digests --dest-tls-verify=false "oci:$layout:debian-slim_overlaybd" "docker://127.0.0.1:$1/debian:obd" ||
    die "skopeo cannot push: $(tail /tmp/docker-registry.log)"
}

start_obd_registry() { # PORT
  mkdir /tmp/layouts
  cp -r "$layout" /tmp/layouts/debian
  bin/obd registry --listen "127.0.0.1:$1" --latency 20ms --read-only /tmp/layouts >/tmp/obd-registry.log 2>&1 &
  registry_pid=$!
  wait_for_registry "$1"
}

wait_for_registry() { # PORT
  for _ in $(seq 100); do
    ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || return 0
    kill -0 "$registry_pid" 2>/dev/null || break
    sleep 0.1
  done
  die "no registry on port $1: $(cat /tmp/*registry.log)"
}

# The configuration that a snapshotter would write for the image: remote layers by digest, each with a directory.
registry_config() { # REPOSITORY-URL FILE
  python3 - "$layout" "$1" >"$2" <<'PYTHON'
import json, os, sys
layout, url = sys.argv[1:]
blob = lambda digest: json.load(open(os.path.join(layout, "blobs", *digest.split(":"))))
manifest = blob(json.load(open(os.path.join(layout, "index.json")))["manifests"][0]["digest"])
lowers = [{"digest": l["digest"], "size": l["size"], "dir": f"/tmp/layers/{i}"} for i, l in enumerate(manifest["layers"])]
json.dump({"repoBlobUrl": url + "/blobs", "lowers": lowers, "resultFile": "/tmp/result"}, sys.stdout)
PYTHON
}
