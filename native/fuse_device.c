// See fuse_device.h.
//
// A process must never wait uninterruptibly for its own FUSE server: killed in that moment it could not die,
// and its descriptors would keep the connection open for ever. So the steps that ask the server something
// (opening the file, configuring the loop device on it) run in a child made with vfork(): it shares nothing
// of the connection, the parent's wait for it ends with SIGKILL, and then the connection ends and so does the
// child.
#include "fuse_device.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/mount.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOP_TRIES 64 // each lost race means that somebody else made progress

static int set(int fs, unsigned command, const char *key, const char *value)
{
    return syscall(SYS_fsconfig, fs, command, key, value, 0) == 0 ? 0 : -errno;
}

int obd_fuse_connect(const char *source, int read_only, int *fuse_fd, int *mount_fd)
{
    char number[16];
    int fs = -1, mount = -1, error = 0;
    int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fuse < 0)
        return -errno;
    snprintf(number, sizeof number, "%d", fuse);
    // "fuse", then a subtype: the kernel shows fuse.overlaybd.
    if ((fs = (int)syscall(SYS_fsopen, "fuse", FSOPEN_CLOEXEC)) < 0)
        error = -errno;
    if (!error)
        error = set(fs, FSCONFIG_SET_STRING, "source", source);
    if (!error)
        error = set(fs, FSCONFIG_SET_STRING, "subtype", "overlaybd");
    if (!error)
        error = set(fs, FSCONFIG_SET_STRING, "fd", number);
    if (!error)
        error = set(fs, FSCONFIG_SET_STRING, "rootmode", "40000");
    if (!error)
        error = set(fs, FSCONFIG_SET_STRING, "user_id", "0");
    if (!error)
        error = set(fs, FSCONFIG_SET_STRING, "group_id", "0");
    if (!error)
        error = set(fs, FSCONFIG_SET_STRING, "max_read", "1048576");
    if (!error)
        error = set(fs, FSCONFIG_SET_FLAG, "default_permissions", NULL);
    // Nobody reaches the file but through this mount's descriptor, so it lets in the loop driver and no one
    // else.
    if (!error)
        error = set(fs, FSCONFIG_SET_FLAG, "allow_other", NULL);
    if (!error && read_only)
        error = set(fs, FSCONFIG_SET_FLAG, "ro", NULL);
    if (!error)
        error = set(fs, FSCONFIG_CMD_CREATE, NULL, NULL);
    if (!error) {
        unsigned attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME;
        if ((mount = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC,
                                  attributes | (read_only ? MOUNT_ATTR_RDONLY : 0))) < 0)
            error = -errno;
    }
    if (fs >= 0)
        close(fs);
    if (error) {
        close(fuse);
        return error;
    }
    *fuse_fd = fuse;
    *mount_fd = mount;
    return 0;
}

// In the child of vfork(): only system calls, no memory of the parent's changed but `result`.
static void configure_in_child(int mount_fd, const char *file, int read_only, int loop_fd,
                               volatile int *result)
{
    // Only these two stay open: above all not /dev/fuse.
    int low = mount_fd < loop_fd ? mount_fd : loop_fd, high = mount_fd < loop_fd ? loop_fd : mount_fd;
    if (low > 0)
        syscall(SYS_close_range, 0u, (unsigned)low - 1, 0u);
    if (high > low + 1)
        syscall(SYS_close_range, (unsigned)low + 1, (unsigned)high - 1, 0u);
    syscall(SYS_close_range, (unsigned)high + 1, ~0u, 0u);
    int fd = openat(mount_fd, file, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (fd < 0) {
        *result = -errno;
        _exit(1);
    }
    struct loop_config config = {.fd = (uint32_t)fd, .block_size = 512};
    config.info.lo_flags = LO_FLAGS_DIRECT_IO | LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0);
    strncpy((char *)config.info.lo_file_name, file, LO_NAME_SIZE - 1);
    *result = ioctl(loop_fd, LOOP_CONFIGURE, &config) == 0 ? 0 : -errno;
    _exit(0);
}

static int configure(int mount_fd, const char *file, int read_only, int loop_fd)
{
    volatile int result = -ECHILD;
    sigset_t all, before;
    sigfillset(&all);
    // The child shares this memory: it must not run a signal handler of ours.
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pid_t child = vfork();
    if (child == 0)
        configure_in_child(mount_fd, file, read_only, loop_fd, &result);
    int error = child < 0 ? -errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return error;
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return result;
}

int obd_loop_attach(int mount_fd, const char *file, int read_only, int *loop_fd, int *number)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        return -errno;
    int error = -EBUSY;
    for (int i = 0; i < LOOP_TRIES && error == -EBUSY; i++) {
        char path[32];
        int free_number = ioctl(control, LOOP_CTL_GET_FREE);
        if (free_number < 0) {
            error = -errno;
            break;
        }
        snprintf(path, sizeof path, "/dev/loop%d", free_number);
        int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
        if (fd < 0) {
            error = -errno;
            break;
        }
        error = configure(mount_fd, file, read_only, fd);
        if (error == 0) {
            *loop_fd = fd;
            *number = free_number;
        } else {
            close(fd);
        }
    }
    close(control);
    return error;
}

int obd_loop_remove(int number)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        return -errno;
    int error = ioctl(control, LOOP_CTL_REMOVE, number) < 0 ? -errno : 0;
    close(control);
    return error;
}
