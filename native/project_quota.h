// Quota of directory trees: a project is a number that files inherit from their directory (ext4, XFS). Any
// thread.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Puts an empty directory into a project that may take `bytes` altogether; 0 bytes: takes the project's limit
// away, and leaves the directory alone. 0, or -ESRCH where the file system is mounted without project quota,
// -ENOSYS before Linux 5.14, -EOPNOTSUPP or -ENOTTY for other file systems, or another -errno.
int obd_project_quota(const char *directory, uint32_t project, uint64_t bytes);

#ifdef __cplusplus
}
#endif
