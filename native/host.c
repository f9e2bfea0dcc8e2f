// See host.h.
#include "host.h"
#include <errno.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57 // Linux 5.6
#endif

int obd_mount(const char *source, const char *target, const char *type, int flags, const char *data)
{
    unsigned long f = 0;
    if (flags & OBD_MOUNT_RO)
        f |= MS_RDONLY;
    if (flags & OBD_MOUNT_NOSUID)
        f |= MS_NOSUID;
    if (flags & OBD_MOUNT_NODEV)
        f |= MS_NODEV;
    if (flags & OBD_MOUNT_NOEXEC)
        f |= MS_NOEXEC;
    if (flags & OBD_MOUNT_REMOUNT)
        f |= MS_REMOUNT;
    return mount(source, target, type, f, data) == 0 ? 0 : -errno;
}

int obd_unmount(const char *target, int lazy)
{
    return umount2(target, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0 ? 0 : -errno;
}

int obd_set_io_flusher(void)
{
    return prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0 ? 0 : -errno;
}

void obd_keep_heap_small(void)
{
#ifdef __GLIBC__
    // Either alone ends the learning. 128 KiB is what it begins with; the units of a cache are larger.
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
#endif
}

void obd_exit_now(int status)
{
    _exit(status);
}

int64_t obd_raise_file_limit(uint64_t want)
{
    struct rlimit now;
    if (getrlimit(RLIMIT_NOFILE, &now) != 0)
        return -errno;
    if (now.rlim_cur >= want)
        return (int64_t)now.rlim_cur;
    struct rlimit raised = {.rlim_cur = want, .rlim_max = now.rlim_max > want ? now.rlim_max : want};
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
        return (int64_t)want;
    raised = (struct rlimit){.rlim_cur = now.rlim_max, .rlim_max = now.rlim_max}; // what needs no privilege
    if (setrlimit(RLIMIT_NOFILE, &raised) != 0)
        return -errno;
    return (int64_t)raised.rlim_cur;
}
