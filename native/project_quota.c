// See project_quota.h.
#include "project_quota.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_quotactl_fd
#define SYS_quotactl_fd 443 // Linux 5.14
#endif

static int limit(int fd, uint32_t project, uint64_t bytes)
{
    struct if_dqblk quota = {.dqb_valid = QIF_BLIMITS};
    quota.dqb_bhardlimit = bytes / QIF_DQBLKSIZE + (bytes % QIF_DQBLKSIZE != 0);
    return syscall(SYS_quotactl_fd, fd, QCMD(Q_SETQUOTA, PRJQUOTA), project, &quota) == 0 ? 0 : -errno;
}

static int assign(int fd, uint32_t project)
{
    struct fsxattr attributes;
    if (ioctl(fd, FS_IOC_FSGETXATTR, &attributes) != 0)
        return -errno;
    attributes.fsx_projid = project;
    attributes.fsx_xflags |= FS_XFLAG_PROJINHERIT;
    return ioctl(fd, FS_IOC_FSSETXATTR, &attributes) == 0 ? 0 : -errno;
}

int obd_project_quota(const char *directory, uint32_t project, uint64_t bytes)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    // A limit first: where there is no quota, nothing has been changed.
    int error = limit(fd, project, bytes);
    if (error == 0 && bytes > 0)
        error = assign(fd, project);
    close(fd);
    return error;
}
