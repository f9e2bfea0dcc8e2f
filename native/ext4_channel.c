// libext2fs's way to the store: an io_manager.
#include "ext4_internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

// libext2fs hands open() a name only; the store that the calling thread is opening travels beside it.
static __thread struct ext4_store *opening;

static struct struct_io_manager manager;

io_manager ext4_channel_manager(struct ext4_store *store)
{
    opening = store;
    return &manager;
}

static errcode_t channel_open(const char *name, int flags, io_channel *out)
{
    (void)flags;
    io_channel channel = calloc(1, sizeof *channel);
    if (!channel || !(channel->name = strdup(name))) {
        free(channel);
        return ENOMEM;
    }
    channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    channel->manager = &manager;
    channel->block_size = 1024;
    channel->refcount = 1;
    channel->flags = CHANNEL_FLAGS_DISCARD_ZEROES;
    channel->private_data = opening;
    *out = channel;
    return 0;
}

static errcode_t channel_close(io_channel channel)
{
    if (--channel->refcount > 0)
        return 0;
    free(channel->name);
    free(channel);
    return 0;
}

static errcode_t channel_set_block_size(io_channel channel, int size)
{
    channel->block_size = size;
    return 0;
}

// A negative count is a number of bytes.
static size_t channel_bytes(io_channel channel, int count)
{
    return count < 0 ? (size_t)-count : (size_t)count * (size_t)channel->block_size;
}

static errcode_t channel_read64(io_channel channel, unsigned long long block, int count, void *data)
{
    return -ext4_store_read(channel->private_data, block * (unsigned)channel->block_size, data,
                            channel_bytes(channel, count));
}

static errcode_t channel_write64(io_channel channel, unsigned long long block, int count, const void *data)
{
    return -ext4_store_write(channel->private_data, block * (unsigned)channel->block_size, data,
                             channel_bytes(channel, count));
}

static errcode_t channel_read(io_channel channel, unsigned long block, int count, void *data)
{
    return channel_read64(channel, block, count, data);
}

static errcode_t channel_write(io_channel channel, unsigned long block, int count, const void *data)
{
    return channel_write64(channel, block, count, data);
}

static errcode_t channel_write_byte(io_channel channel, unsigned long offset, int count, const void *data)
{
    return count < 0 ? EINVAL : -ext4_store_write(channel->private_data, offset, data, (size_t)count);
}

static errcode_t channel_flush(io_channel channel)
{
    (void)channel;
    return 0;
}

static errcode_t channel_set_option(io_channel channel, const char *option, const char *argument)
{
    (void)channel, (void)option, (void)argument;
    return 0;
}

static errcode_t channel_zeroout(io_channel channel, unsigned long long block, unsigned long long count)
{
    static const uint8_t zeros[EXT4_BLOCK];
    uint64_t offset = block * (unsigned)channel->block_size, left = count * (unsigned)channel->block_size;
    while (left > 0) {
        size_t n = left < sizeof zeros ? (size_t)left : sizeof zeros;
        int e = ext4_store_write(channel->private_data, offset, zeros, n);
        if (e)
            return -e;
        offset += n;
        left -= n;
    }
    return 0;
}

static struct struct_io_manager manager = {
    .magic = EXT2_ET_MAGIC_IO_MANAGER,
    .name = "obd layer store",
    .open = channel_open,
    .close = channel_close,
    .set_blksize = channel_set_block_size,
    .read_blk = channel_read,
    .write_blk = channel_write,
    .flush = channel_flush,
    .write_byte = channel_write_byte,
    .set_option = channel_set_option,
    .read_blk64 = channel_read64,
    .write_blk64 = channel_write64,
    .zeroout = channel_zeroout,
};
