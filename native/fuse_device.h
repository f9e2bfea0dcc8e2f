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

#ifdef __cplusplus
}
#endif
