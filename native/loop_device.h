// Loop devices on a file that this very process serves through FUSE, and how not to hang on them.
//
// A process that dies closes its descriptors one after another, and the last close of a block device waits
// for reads under way. If those wait for our FUSE connection, whose descriptor comes later in the same row,
// it never ends. So the descriptor of a loop device lives in a thread with a descriptor table of its own,
// which holds nothing else: when the process is killed, that thread may wait as long as it likes, the other
// table goes, the connection ends, and the wait with it. The same thread opens the file and configures the
// loop device, for the same reason.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Opens `file` below mount_fd and makes it a loop device: direct I/O, 512-byte blocks, no partition scan,
// released with its last user. The server must be answering: this waits for it. On success *number says
// which, and the result is a handle > 0 that must end in obd_loop_join; mount_fd may be closed. -EBUSY: every
// free loop device was taken by others, many times over. -EMFILE: LOOP_MAX devices of this process. Any
// thread but one that serves.
enum { LOOP_MAX = 1024 };
int obd_loop_attach(int mount_fd, const char *file, int read_only, int *number);

// Begins to let go of the loop device; it ends with its last user. -EBUSY, and nothing happens, if somebody
// uses it exclusively (a mount in any namespace, device mapper), unless `force`. Any thread.
int obd_loop_detach(int handle, int force);

// Waits until the device is let go of, after a detach, and frees the handle. Any thread, once.
int obd_loop_join(int handle);

// Removes a loop device from the system if it is free. The kernel refuses to remove one in use.
int obd_loop_remove(int number);

#ifdef __cplusplus
}
#endif
