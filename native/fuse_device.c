// See fuse_device.h.
#include "fuse_device.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

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
