# Sourced by ../vm. User-Mode Linux: the kernel is a program, its root filesystem is the host's through hostfs.
#
# Two consoles: the command's output comes out on the first one, our stdout; the kernel's own messages go to the second
# one, stderr, which is kept in $run_dir/console for the case that the machine fails.

boot_uml() { # MACHINE MEMORY-MB SECONDS SHARE SYSTEMD DISK
  local machine=$1 memory=$2 seconds=$3 share=$4 systemd=$5 disk=$6
  # One CPU, and always the same one: each system call inside is a hand-over between two host processes, and crossing
  # CPUs for it makes everything three times slower. Neighbours take different ones.
  local cpus cpu
  mapfile -t cpus < <(allowed_cpus)
  cpu=${cpus[$((RANDOM % ${#cpus[@]}))]}
  local environment=("TMPDIR=$(memory_directory "$memory")")
  if [ -d "$machine/lib" ]; then
    cd "$machine/lib" # see carry_c_library
    environment+=("LD_LIBRARY_PATH=$machine/lib")
  fi
  local more=()
  [ -z "$systemd" ] || more+=(vm_systemd=yes)
  [ -z "$disk" ] || more+=(vm_disk=yes "ubda=$disk")
  contained "$seconds" taskset -c "$cpu" env "${environment[@]}" "$machine/linux" \
    "mem=${memory}M" root=/dev/root rootfstype=hostfs rootflags=/ ro quiet \
    "init=$here/guest/init" con=null con0=null,fd:1 con1=null,fd:2 console=tty1 \
    "vm_modules=$machine/modules" "vm_control=$run_dir" "vm_share=$share" "vm_checkout=$checkout" \
    "${more[@]}" 2>"$run_dir/console"
}

# The CPUs that this process may run on, one per line.
allowed_cpus() {
  sed -n 's/^Cpus_allowed_list:\s*//p' /proc/self/status | tr ',' '\n' | while IFS=- read -r first last; do
    seq "$first" "${last:-$first}"
  done
}

# The machine's memory is a deleted file: in /dev/shm where that is large enough and may hold code (containers often give
# it 64 MB), otherwise beside the cache, on disk.
memory_directory() { # MEMORY-MB
  local free
  free=$(df --output=avail -m /dev/shm 2>/dev/null | tail -1)
  if [ "${free:-0}" -gt "$1" ] && ! findmnt -nro OPTIONS -T /dev/shm | grep -qw noexec; then
    echo /dev/shm
  else
    echo "$run_dir"
  fi
}
