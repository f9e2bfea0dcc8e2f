# Sourced after devices.sh and registries.sh: containerd, the snapshotter and the service as they are installed, with the
# golden Debian image in a registry of this machine.

containerd_pid= snapshotter_pid=
image=127.0.0.1:5002/debian:debian-slim_overlaybd
writable=containerd.io/snapshot/overlaybd.writable

start_snapshotter() {
  bin/overlaybd-snapshotter /tmp/snapshotter.json >>/tmp/snapshotter.log 2>&1 &
  snapshotter_pid=$!
}

start_containerd() {
  containerd -c /tmp/containerd.toml >>/tmp/containerd.log 2>&1 &
  containerd_pid=$!
  for _ in $(seq 300); do
    ! ctr snapshots --snapshotter overlaybd ls >/dev/null 2>&1 || return 0
    kill -0 "$containerd_pid" 2>/dev/null || break
    sleep 0.2
  done
  tail -n 5 /tmp/containerd.log /tmp/snapshotter.log
  die "containerd has no snapshotter"
}

start_node() { # all of it
  for module in target_core_user tcm_loop sd_mod loop; do modprobe "$module"; done
  write_service_config /tmp/service.json '"registryConfig": { "plainHttpHosts": ["127.0.0.1"] }'
  start_service /tmp/service.json
  mkdir -p /tmp/snapshots
  cat >/tmp/snapshotter.json <<JSON
{ "root": "/tmp/snapshots", "address": "/run/overlaybd-snapshotter/overlaybd.sock", "serviceConfig": "/tmp/service.json",
  "mirrorRegistry": [{ "host": "127.0.0.1:5002", "insecure": true }] }
JSON
  cat >/tmp/containerd.toml <<TOML
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[proxy_plugins.overlaybd]
  type = "snapshot"
  address = "/run/overlaybd-snapshotter/overlaybd.sock"
TOML
  start_snapshotter
  # containerd that dials too early goes on failing for a while.
  for _ in $(seq 300); do
    [ ! -S /run/overlaybd-snapshotter/overlaybd.sock ] || break
    sleep 0.1
  done
  start_containerd
  start_obd_registry 5002
}

# The device, mount and directory of every snapshot go with it.
nothing_left_of_node() {
  ctr image ls -q | xargs -r ctr image rm --sync >/dev/null
  for _ in $(seq 100); do
    [ -n "$(ls -A /tmp/snapshots/snapshots)" ] || break
    sleep 0.1
  done
  [ -z "$(ls -A /tmp/snapshots/snapshots)" ] || die "snapshots are left: $(ls -R /tmp/snapshots | head; ctr snapshots --snapshotter overlaybd ls)"
  [ -z "$(bin/obd list --json | grep configPath)" ] || die "devices are left: $(bin/obd list)"
  ! grep -E ' /tmp/snapshots/| /run/containerd/io' /proc/mounts || die "mounts are left"
  nothing_left
}

stop_node() {
  kill "$registry_pid" "$containerd_pid"
  wait "$registry_pid" "$containerd_pid" 2>/dev/null || true
  kill "$snapshotter_pid"
  wait "$snapshotter_pid" || die "the snapshotter ended with $?: $(tail /tmp/snapshotter.log)"
  stop_service
}

run_it() { # [CTR-RUN-FLAG...] -- NAME COMMAND: a container of the image
  local flags=()
  while [ "$1" != -- ]; do flags+=("$1") && shift; done
  ctr run --snapshotter overlaybd "${flags[@]}" "${from:-$image}" "$2" /bin/sh -c "$3"
}
