# Sourced by ../vm. QEMU: a full machine with two CPUs, its root filesystem is the host's through 9p. A second opinion:
# races between CPUs, another kernel. Always emulated (TCG): where this is needed, /dev/kvm is missing, or is nested and
# there but broken.

boot_qemu() { # MACHINE MEMORY-MB SECONDS SHARE
  local machine=$1 memory=$2 seconds=$3 share=$4
  # The output port closes when QEMU's stdin ends: give it one that never does.
  mkfifo "$run_dir/endless"
  exec 3<>"$run_dir/endless"
  # -erms: string moves are slow under emulation. mitigations=off and tsc=reliable save seconds of boot time.
  contained "$seconds" qemu-system-x86_64 \
    -nodefaults -no-user-config -display none -no-reboot \
    -M q35 -accel tcg,thread=multi -smp 2 -cpu max,-erms -m "$memory" \
    -kernel "$machine/kernel" -initrd "$machine/initramfs.gz" \
    -append "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable no_timer_check mitigations=off vm_modules=$machine/modules vm_checkout=$checkout" \
    -serial "file:$run_dir/console" \
    -chardev stdio,id=output,signal=off -device virtio-serial-pci -device virtserialport,chardev=output \
    -fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap \
    -device virtio-9p-pci,fsdev=root,mount_tag=root \
    -fsdev "local,id=control,path=$run_dir,security_model=none" \
    -device virtio-9p-pci,fsdev=control,mount_tag=control \
    -fsdev "local,id=share,path=$share,security_model=none" \
    -device virtio-9p-pci,fsdev=share,mount_tag=share \
    -object rng-random,id=random,filename=/dev/urandom -device virtio-rng-pci,rng=random \
    <&3 2>>"$run_dir/console"
}
