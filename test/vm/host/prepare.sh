# Sourced by ../vm. Makes the machines: Debian packages are downloaded with apt and unpacked with dpkg-deb, never
# installed. A machine is a directory below $cache that exists whole or not at all:
#
#   uml-SUITE/   linux (the kernel, a program), modules/VERSION/, for a foreign suite also lib/ (its C library)
#   qemu-SUITE/  kernel, initramfs.gz, modules/VERSION/

# Prints the directory of the machine, which it makes if it is not there.
prepare_machine() { # uml|qemu
  local kind=$1 suite running
  running=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  suite=${OBD_VM_SUITE:-$running}
  local machine=$cache/$kind-$suite
  mkdir -p "$cache"
  if [ "$kind" = uml ]; then
    install_packages busybox-static:/bin/busybox kmod:/sbin/modprobe
  else
    install_packages busybox-static:/bin/busybox kmod:/sbin/modprobe cpio:/usr/bin/cpio xz-utils:/usr/bin/xz \
      qemu-system-x86:/usr/bin/qemu-system-x86_64
  fi
  if [ ! -d "$machine" ]; then
    [ "$suite" != "$running" ] || need_package "$([ "$kind" = uml ] && echo user-mode-linux || echo linux-image-amd64)"
    (
      flock 9
      [ ! -d "$machine" ] || exit 0 # another process was faster
      rm -rf "$cache"/unpack.* # whoever made it was killed: only the holder of the lock makes one
      unpacked=$(mktemp -d "$cache/unpack.XXXXXX")
      trap 'rm -rf "$unpacked"' EXIT
      cd "$unpacked"
      echo "vm: unpacking $kind of $suite into $machine" >&2
      "make_$kind" "$suite" "$running" >&2
      mv -T "$unpacked/machine" "$machine"
    ) 9>"$cache/lock" || fail "cannot prepare $kind of $suite; the reason is above"
  fi
  echo "$machine"
}

# Installs each PACKAGE whose FILE is missing.
install_packages() { # PACKAGE:FILE...
  local pair missing=()
  for pair in "$@"; do
    [ -e "${pair#*:}" ] || missing+=("${pair%%:*}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  (
    flock 9
    export DEBIAN_FRONTEND=noninteractive
    refresh_package_lists "${missing[0]}"
    apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null
  ) 9>"$cache/apt.lock" || fail "cannot install ${missing[*]}"
}

# Ends with status 3 where the distribution has no such package.
need_package() { # PACKAGE
  (flock 9 && refresh_package_lists "$1") 9>"$cache/apt.lock"
  apt-cache show --quiet=2 "$1" >/dev/null 2>&1 || { echo "vm: this distribution has no package $1" >&2 && exit 3; }
}

# A bare machine has no package lists at all.
refresh_package_lists() { # PACKAGE
  apt-cache show --quiet=2 "$1" >/dev/null 2>&1 || apt-get update -qq >&2
}

# Downloads packages of a suite into the current directory. The running suite needs nothing but apt. For another one, apt
# is given a state of its own here, with one source: the mirror it already uses for Debian.
download_packages() { # SUITE RUNNING-SUITE PACKAGE...
  local suite=$1 running=$2 mirror
  shift 2
  if [ "$suite" = "$running" ]; then
    refresh_package_lists "$1"
    # Lists that are older than the mirror name versions that are gone: refresh once, try again.
    apt-get download -qq -o APT::Sandbox::User=root "$@" ||
      { apt-get update -qq && apt-get download -qq -o APT::Sandbox::User=root "$@"; }
    return
  fi
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN)/$(LABEL)/$(COMPONENT)' 'Created-By: Packages' |
    awk '$2 == "Debian/Debian/main" { print $1; exit }')
  [ -n "$mirror" ] || { echo "vm: no Debian mirror among apt's sources" && return 1; }
  mkdir -p apt/lists/partial apt/archives/partial
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >apt/sources.list
  local options=(-qq -o "Dir::Etc::sourcelist=$PWD/apt/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  apt-get "${options[@]}" download "$@"
}

# Each make_* leaves ./machine.

make_uml() { # SUITE RUNNING-SUITE
  local packages=(user-mode-linux)
  [ "$1" = "$2" ] || packages+=(libc6)
  download_packages "$1" "$2" "${packages[@]}"
  mkdir machine package
  dpkg-deb -x user-mode-linux_*.deb package
  mv package/usr/lib/uml/modules machine/modules
  mv package/usr/bin/linux.uml machine/linux
  [ "$1" = "$2" ] || carry_c_library
}

# A kernel program of a newer suite wants that suite's C library, and its dynamic loader too. It finds the library through
# LD_LIBRARY_PATH; the loader is named inside the program, as an absolute path. Running the program through the other
# loader would upset the memory layout that User-Mode Linux counts on, so the name is overwritten in place by a relative
# one of the same length at most: boot-uml.sh starts the program in lib/.
carry_c_library() {
  dpkg-deb -x libc6_*.deb c-library
  mkdir machine/lib
  cp c-library/usr/lib/x86_64-linux-gnu/{libc.so.6,ld-linux-x86-64.so.2} machine/lib
  perl -0777 -pi -e '
    my $old = "/lib64/ld-linux-x86-64.so.2\0";
    my $new = "ld-linux-x86-64.so.2";
    my $padded = $new . "\0" x (length($old) - length($new));
    s/\Q$old\E/$padded/ == 1 or die "the kernel program names no loader\n"' machine/linux
}

make_qemu() { # SUITE RUNNING-SUITE
  [ "$1" = "$2" ] || { echo "vm: QEMU boots the running suite ($2) only, not $1" && return 1; }
  refresh_package_lists linux-image-amd64
  local image version module
  image=$(apt-cache depends linux-image-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image/ { print $2; exit }')
  download_packages "$1" "$2" "$image"
  mkdir machine
  dpkg-deb -x linux-image-*.deb package
  version=$(ls package/lib/modules)
  depmod -b package "$version"
  bare_kernel package/boot/vmlinuz-* >machine/kernel || cp package/boot/vmlinuz-* machine/kernel

  # The initramfs: busybox and the modules, in loading order, that reach the root filesystem.
  mkdir -p initramfs/{bin,modules,proc,sys,dev,lower,overlay,root,control}
  cp /bin/busybox initramfs/bin
  cp "$here/guest/init" initramfs/init
  for module in virtio_pci virtio_console 9p 9pnet_virtio overlay configfs; do
    modprobe -d package -S "$version" --show-depends "$module"
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r module; do
    local name
    name=$(basename "${module%.xz}")
    case $module in *.xz) xz -dc "$module" ;; *) cat "$module" ;; esac >"initramfs/modules/$name"
    echo "$name" >>initramfs/modules/order
  done
  (cd initramfs && find . | cpio -o -H newc --quiet) | gzip -1 >machine/initramfs.gz
  mv package/lib/modules machine/modules
}

# The ELF kernel inside a compressed boot image: QEMU starts it directly, and need not emulate the decompression.
bare_kernel() { # VMLINUZ
  local offset
  offset=$(LC_ALL=C grep -aboP '\xfd7zXZ\x00' "$1" | head -1 | cut -d: -f1)
  [ -n "$offset" ] || return 1
  # What follows the compressed stream makes xz complain at its end: only the result tells.
  tail -c "+$((offset + 1))" "$1" | xz -dc 2>/dev/null >kernel.elf || true
  [ "$(head -c 4 kernel.elf | tail -c 3)" = ELF ] && cat kernel.elf
}
