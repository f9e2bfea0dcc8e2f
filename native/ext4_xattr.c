#include "ext4_internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct name_list {
    char **at;
    size_t count, capacity;
    int error;
};

static int collect(char *name, char *value, size_t length, void *context)
{
    (void)value, (void)length;
    struct name_list *list = context;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 16;
        char **at = realloc(list->at, capacity * sizeof *at);
        if (!at) {
            list->error = -ENOMEM;
            return XATTR_ABORT;
        }
        list->at = at;
        list->capacity = capacity;
    }
    char *copy = strdup(name);
    if (!copy) {
        list->error = -ENOMEM;
        return XATTR_ABORT;
    }
    list->at[list->count++] = copy;
    return 0;
}

static int open_xattrs(struct ext4_image *image, uint32_t inode, struct ext2_xattr_handle **handle)
{
    int e = ext4_dir_sync(image, inode);
    if (e)
        return e;
    errcode_t error = ext2fs_xattrs_open(image->fs, inode, handle);
    if (!error) {
        error = ext2fs_xattrs_read(*handle);
        if (error)
            ext2fs_xattrs_close(handle);
    }
    return error ? ext4_fail(image, error, "Cannot read the extended attributes of inode %u", inode) : 0;
}

int ext4_set_xattrs(struct ext4_image *image, uint32_t inode, const struct ext4_xattr *list, size_t count)
{
    struct ext2_xattr_handle *handle;
    struct name_list old = {0};
    int e = open_xattrs(image, inode, &handle);
    if (e)
        return e;
    errcode_t error = ext2fs_xattrs_iterate(handle, collect, &old);
    if (old.error)
        error = ENOMEM;
    for (size_t i = 0; i < old.count; i++) {
        if (!error)
            error = ext2fs_xattr_remove(handle, old.at[i]);
        free(old.at[i]);
    }
    free(old.at);
    for (size_t i = 0; i < count && !error; i++)
        error = ext2fs_xattr_set(handle, list[i].name, list[i].value, list[i].length);
    if (!error && (old.count || count))
        error = ext2fs_xattrs_write(handle);
    ext2fs_xattrs_close(&handle);
    if (error == EXT2_ET_EA_NO_SPACE || error == EXT2_ET_EA_BAD_VALUE_SIZE)
        return ext4_fail(image, E2BIG,
                         "Extended attributes do not fit one inode and one block (about 4 KiB)");
    return error ? ext4_fail(image, error, "Cannot set the extended attributes of inode %u", inode) : 0;
}

struct visit {
    struct ext2_xattr_handle *handle;
    int (*entry)(void *context, const char *name, const void *value, size_t length);
    void *context;
    errcode_t error;
    int result;
};

static int visit_one(char *name, char *value, size_t length, void *context)
{
    struct visit *visit = context;
    void *plain = NULL;
    // The iterator gives ACLs as they are on disk; get() gives them as system calls do.
    if (strncmp(name, "system.posix_acl_", 17) == 0) {
        visit->error = ext2fs_xattr_get(visit->handle, name, &plain, &length);
        if (visit->error)
            return XATTR_ABORT;
    }
    visit->result = visit->entry(visit->context, name, plain ? plain : value, length);
    if (plain)
        ext2fs_free_mem(&plain);
    return visit->result ? XATTR_ABORT : 0;
}

int ext4_list_xattrs(struct ext4_image *image, uint32_t inode,
                     int (*entry)(void *context, const char *name, const void *value, size_t length),
                     void *context)
{
    struct ext2_xattr_handle *handle;
    int e = open_xattrs(image, inode, &handle);
    if (e)
        return e;
    struct visit visit = {handle, entry, context, 0, 0};
    errcode_t error = ext2fs_xattrs_iterate(handle, visit_one, &visit);
    ext2fs_xattrs_close(&handle);
    error = error ? error : visit.error;
    if (error)
        return ext4_fail(image, error, "Cannot list the extended attributes of inode %u", inode);
    return visit.result;
}
