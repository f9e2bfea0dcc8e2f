// The kernel objects around a FUSE-served block device: a superblock that is mounted nowhere, and a loop
// device on its only file. Nothing of it has a name in the file system, so nothing can be left behind: when
// the descriptors below are closed, by hand or by a SIGKILL, the kernel takes it all down.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Opens /dev/fuse and makes a superblock for it (fsopen, fsmount), attached to no directory. `source` is what
// /proc shows. On success *fuse_fd is the server's end, non-blocking, and *mount_fd keeps the superblock
// alive. Any thread. Asks nothing of the server.
int obd_fuse_connect(const char *source, int read_only, int *fuse_fd, int *mount_fd);

// Opens `file` below mount_fd and makes it a loop device: direct I/O, 512-byte blocks, no partition scan,
// released with its last user. On success *loop_fd (/dev/loop*number) keeps the device, which keeps the
// superblock; mount_fd may be closed. A server must be answering: this waits for it. Not on a thread that
// serves. -EBUSY: every free loop device was taken by others, many times over.
int obd_loop_attach(int mount_fd, const char *file, int read_only, int *loop_fd, int *number);

// Removes a loop device from the system if it is free. The kernel refuses to remove one in use.
int obd_loop_remove(int number);

#ifdef __cplusplus
}
#endif
