# Sourced by the scripts that run inside a machine: the service, and devices made by hand through configfs, step by step as
# the reference's snapshotter makes them. Nothing here uses our own programs for what an outsider would do himself.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
target=/sys/kernel/config/target
hba=999999999
service_socket=/run/overlaybd/overlaybd.sock
service_log=/tmp/service.log
service_pid=

die() {
  echo "FAILED: $*"
  echo "--- service log, its last lines"
  tail -n 30 "$service_log" 2>/dev/null || true
  echo "--- kernel log, its last lines"
  dmesg | tail -n 15
  exit 1
}

# --- the service, as the README starts it

# Writes a configuration with a cache of its own below /tmp; arguments are further `"key": value` members.
write_service_config() { # FILE [MEMBER...]
  local file=$1 members=
  shift
  for member in "$@"; do members+=",$member"; done
  cat >"$file" <<JSON
{
  "logConfig": { "logLevel": 1, "logPath": "$service_log" },
  "cacheConfig": { "cacheType": "file", "cacheDir": "/tmp/cache", "cacheSizeGB": 1 },
  "credentialFilePath": "/tmp/cred.json",
  "enableAudit": false,
  "download": { "enable": false }$members
}
JSON
}

start_service() { # CONFIG
  modprobe target_core_user
  bin/overlaybd-tcmu "$1" >>"$service_log.output" 2>&1 &
  service_pid=$!
  for _ in $(seq 300); do
    if [ -S "$service_socket" ] && bin/obd list >/dev/null 2>&1; then return 0; fi
    kill -0 "$service_pid" 2>/dev/null || { cat "$service_log.output" && die "the service ended at its start"; }
    sleep 0.1
  done
  die "the service is not ready after 30 s"
}

stop_service() {
  kill -TERM "$service_pid"
  local status=0
  wait "$service_pid" || status=$?
  [ "$status" = 0 ] || die "the service ended with status $status after SIGTERM"
  [ ! -e "$service_socket" ] || die "the service left its socket"
}

# --- devices by hand

naa_of() { # ID
  printf 'naa.199%013d' "$1"
}

# Prints /dev/sdX. On failure: prints the errno text of the step, leaves what was made (remove_device takes it away).
create_device() { # ID IMAGE-CONFIG
  local id=$1 config=$2 naa backstore lun address disk=
  naa=$(naa_of "$id")
  backstore=$target/core/user_$hba/dev_$id
  lun=$target/loopback/$naa/tpgt_1/lun/lun_0
  mkdir -p "$target/core/user_$hba"
  mkdir -m 0700 "$backstore" || return 1
  echo -n "dev_config=overlaybd/$config" >"$backstore/control" || return 1
  echo -n max_data_area_mb=4 >"$backstore/control" || return 1
  echo -n 1 >"$backstore/enable" || return 1
  echo -n 2147483 >"$backstore/attrib/cmd_time_out" || return 1
  mkdir -p "$lun" || return 1
  echo -n "$naa" >"$target/loopback/$naa/tpgt_1/nexus" || return 1
  ln -s "$backstore" "$lun/dev_$id" || return 1
  address=$(cat "$target/loopback/$naa/tpgt_1/address")
  for _ in $(seq 500); do
    disk=$(ls "/sys/class/scsi_device/$address:0/device/block" 2>/dev/null || true)
    [ -z "$disk" ] || break
    sleep 0.01
  done
  [ -n "$disk" ] || { echo "no disk at SCSI address $address:0" >&2 && return 1; }
  echo -n 2147483 >"/sys/block/$disk/device/timeout"
  echo "/dev/$disk"
}

# Each step may find that there is nothing to do; the order matters, a LUN goes before its backstore.
remove_device() { # ID
  local id=$1 naa
  naa=$(naa_of "$id")
  local portal=$target/loopback/$naa/tpgt_1 backstore=$target/core/user_$hba/dev_$id
  [ ! -L "$portal/lun/lun_0/dev_$id" ] || rm "$portal/lun/lun_0/dev_$id"
  [ ! -d "$portal/lun/lun_0" ] || rmdir "$portal/lun/lun_0"
  [ ! -d "$portal" ] || rmdir "$portal"
  [ ! -d "$target/loopback/$naa" ] || rmdir "$target/loopback/$naa"
  [ ! -d "$backstore" ] || rmdir "$backstore"
}

# --- what is left

# Everything that devices may leave behind, one line each, the running service's own files aside.
leftovers() {
  find "$target/core" -mindepth 2 -maxdepth 2 -type d -path '*/user_*' ! -name 'hba_*' 2>/dev/null || true
  find "$target/loopback" -mindepth 1 -maxdepth 1 -name 'naa.*' 2>/dev/null || true
  find /dev -maxdepth 1 \( -name 'sd*' -o -name 'uio*' \)
  grep -E '^/dev/(sd|loop)' /proc/mounts || true
  find /run/overlaybd ! -type d ! -path "$service_socket" ! -name '*.lock' 2>/dev/null || true
}

nothing_left() {
  local left=
  for _ in $(seq 50); do
    left=$(leftovers)
    [ -n "$left" ] || return 0
    sleep 0.1
  done
  die "left behind: $left"
}

# --- images of the golden set

# Copies an image configuration of the golden images to FILE, its paths made absolute, further members added.
golden_config() { # FIXTURES/SET/image.json FILE [MEMBER...]
  local directory members=
  directory=$(realpath "$(dirname "$1")")
  local from=$1 file=$2
  shift 2
  for member in "$@"; do members+=",$member"; done
  sed "s|@DIR@|$directory|g" "$from" | python3 -c '
import json, sys
config = json.load(sys.stdin)
config.update(json.loads("{" + sys.argv[1].lstrip(",") + "}"))
json.dump(config, sys.stdout)' "$members" >"$file"
}

compare() { # device|tree ...
  node dist/test/vm/compare.js "$@" || die "compare $*"
}
