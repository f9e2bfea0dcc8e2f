// System calls on the host that Node has no name for: mounts and process limits. 0 or a value, or -errno. Any
// thread.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// mount(2). `read_only`, `nosuid`, `nodev` and `noexec` are flags; `data` is the file system's own options or
// NULL. Waits for the device.
enum obd_mount_flag {
    OBD_MOUNT_RO = 1,
    OBD_MOUNT_NOSUID = 2,
    OBD_MOUNT_NODEV = 4,
    OBD_MOUNT_NOEXEC = 8,
    OBD_MOUNT_REMOUNT = 16
};
int obd_mount(const char *source, const char *target, const char *type, int flags, const char *data);

// umount2(2); `lazy`: out of sight now, gone when its last user is. Does not follow a symbolic link.
int obd_unmount(const char *target, int lazy);

// Tells the kernel that this thread, and those it starts from now on, serve block devices: memory that they
// ask for must not wait for writes to a device, which may be their own. Needs CAP_SYS_RESOURCE.
int obd_set_io_flusher(void);

// Keeps the C library's heap from growing with what comes and goes. Its own rule learns from the first large
// buffers that are freed to put all later ones into the heap, where small ones between them keep their pages.
void obd_keep_heap_small(void);

// Ends the process without waiting for its threads; what is not written by then is lost.
void obd_exit_now(int status);

// Raises RLIMIT_NOFILE to `want`, as far as the process may; the limit that holds then.
int64_t obd_raise_file_limit(uint64_t want);

#ifdef __cplusplus
}
#endif
