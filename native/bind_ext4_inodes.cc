// Ext4Image: names, inodes and file content.
#include "bind_ext4.h"
#include <sys/stat.h>

namespace
{

constexpr size_t ATTRIBUTES = 11, STAT = 15;

// mode, uid, gid, major, minor, then seconds and nanoseconds of atime, mtime, ctime.
ext4_attributes Attributes(const Napi::CallbackInfo &info, size_t i)
{
    const double *d = Doubles(info, i, ATTRIBUTES);
    auto time = [&](size_t at) { return ext4_time{(int64_t)d[at], (uint32_t)d[at + 1]}; };
    for (size_t n = 0; n < ATTRIBUTES; n++) {
        bool second = n == 5 || n == 7 || n == 9;
        if (second ? !(d[n] >= -9007199254740991.0 && d[n] <= 9007199254740991.0)
                   : !(d[n] >= 0 && d[n] <= (n > 5 ? 999999999.0 : 4294967295.0)))
            throw Napi::RangeError::New(info.Env(), "Attribute " + std::to_string(n) + " is out of range");
    }
    return {(uint32_t)d[0], (uint32_t)d[1], (uint32_t)d[2], (uint32_t)d[3],
            (uint32_t)d[4], time(5),        time(7),        time(9)};
}

} // namespace

// inode + 2^32 * (type >> 12), or 0.
Napi::Value Ext4Image::Lookup(const Napi::CallbackInfo &info)
{
    std::string name = ByteString(info[1]);
    uint32_t inode = 0, type = 0;
    int status = ext4_lookup(Get(info.Env()), Inode(info, 0), name.data(), name.size(), &inode, &type);
    if (status == -ENOENT)
        return Napi::Number::New(info.Env(), 0);
    Check(info.Env(), status);
    return Napi::Number::New(info.Env(), inode + 4294967296.0 * (type >> 12));
}

void Ext4Image::Stat(const Napi::CallbackInfo &info)
{
    struct ext4_stat s;
    double *d = Doubles(info, 1, STAT);
    Check(info.Env(), ext4_stat(Get(info.Env()), Inode(info, 0), &s));
    const double values[STAT] = {(double)s.mode,
                                 (double)s.uid,
                                 (double)s.gid,
                                 (double)s.major,
                                 (double)s.minor,
                                 (double)s.atime.seconds,
                                 (double)s.atime.nanoseconds,
                                 (double)s.mtime.seconds,
                                 (double)s.mtime.nanoseconds,
                                 (double)s.ctime.seconds,
                                 (double)s.ctime.nanoseconds,
                                 (double)s.links,
                                 (double)s.size,
                                 (double)s.blocks,
                                 (double)s.inode};
    memcpy(d, values, sizeof values);
}

// Flat triples: name, inode, type.
Napi::Value Ext4Image::Readdir(const Napi::CallbackInfo &info)
{
    struct Context {
        Napi::Env env;
        Napi::Array out;
        uint32_t n;
    } context{info.Env(), Napi::Array::New(info.Env()), 0};
    Check(info.Env(), ext4_readdir(
                          Get(info.Env()), Inode(info, 0),
                          [](void *c, const char *name, size_t length, uint32_t inode, uint32_t type) {
                              auto *to = static_cast<Context *>(c);
                              to->out.Set(to->n++, FromBytes(to->env, name, length));
                              to->out.Set(to->n++, Napi::Number::New(to->env, inode));
                              to->out.Set(to->n++, Napi::Number::New(to->env, type));
                              return 0;
                          },
                          &context));
    return context.out;
}

Napi::Value Ext4Image::Readlink(const Napi::CallbackInfo &info)
{
    char target[4096];
    size_t length = 0;
    Check(info.Env(), ext4_readlink(Get(info.Env()), Inode(info, 0), target, sizeof target, &length));
    return FromBytes(info.Env(), target, length);
}

Napi::Value Ext4Image::Read(const Napi::CallbackInfo &info)
{
    ext4_image *i = Get(info.Env());
    uint32_t inode = Inode(info, 0);
    uint64_t offset = Unsigned(info, 1);
    Napi::Uint8Array into = Bytes(info.Env(), info[2]);
    uint8_t *data = into.Data();
    size_t length = into.ByteLength();
    auto got = std::make_shared<size_t>(0);
    return Start(
        info.Env(), [=] { return ext4_read(i, inode, offset, data, length, got.get()); },
        [got](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, (double)*got); }, into);
}

// Flat triples: offset, place in the image, length.
Napi::Value Ext4Image::Extents(const Napi::CallbackInfo &info)
{
    std::vector<double> runs;
    Check(info.Env(), ext4_extents(
                          Get(info.Env()), Inode(info, 0),
                          [](void *context, uint64_t offset, uint64_t physical, uint64_t length) {
                              auto *out = static_cast<std::vector<double> *>(context);
                              out->insert(out->end(), {(double)offset, (double)physical, (double)length});
                              return 0;
                          },
                          &runs));
    auto array = Napi::Float64Array::New(info.Env(), runs.size());
    std::copy(runs.begin(), runs.end(), array.Data());
    return array;
}

Napi::Value Ext4Image::Parent(const Napi::CallbackInfo &info)
{
    uint32_t parent = 0;
    Check(info.Env(), ext4_parent(Get(info.Env()), Inode(info, 0), &parent));
    return Napi::Number::New(info.Env(), parent);
}

Napi::Value Ext4Image::Make(const Napi::CallbackInfo &info)
{
    std::string name = ByteString(info[1]);
    ext4_attributes a = Attributes(info, 2);
    uint32_t inode = 0;
    Check(info.Env(), ext4_make(Get(info.Env()), Inode(info, 0), name.data(), name.size(), &a, &inode));
    return Napi::Number::New(info.Env(), inode);
}

Napi::Value Ext4Image::Symlink(const Napi::CallbackInfo &info)
{
    std::string name = ByteString(info[1]), target = ByteString(info[2]);
    ext4_attributes a = Attributes(info, 3);
    uint32_t inode = 0;
    Check(info.Env(), ext4_symlink(Get(info.Env()), Inode(info, 0), name.data(), name.size(), target.data(),
                                   target.size(), &a, &inode));
    return Napi::Number::New(info.Env(), inode);
}

void Ext4Image::Link(const Napi::CallbackInfo &info)
{
    std::string name = ByteString(info[1]);
    Check(info.Env(), ext4_link(Get(info.Env()), Inode(info, 0), name.data(), name.size(), Inode(info, 2)));
}

void Ext4Image::Remove(const Napi::CallbackInfo &info)
{
    std::string name = ByteString(info[1]);
    Check(info.Env(), ext4_remove(Get(info.Env()), Inode(info, 0), name.data(), name.size()));
}

Napi::Value Ext4Image::RemoveAsync(const Napi::CallbackInfo &info)
{
    ext4_image *i = Get(info.Env());
    uint32_t inode = Inode(info, 0);
    std::string name = ByteString(info[1]);
    return Start(info.Env(), [=] { return ext4_remove(i, inode, name.data(), name.size()); });
}

void Ext4Image::SetAttributes(const Napi::CallbackInfo &info)
{
    ext4_attributes a = Attributes(info, 1);
    Check(info.Env(), ext4_set_attributes(Get(info.Env()), Inode(info, 0), &a));
}

void Ext4Image::FileBegin(const Napi::CallbackInfo &info)
{
    Check(info.Env(), ext4_file_begin(Get(info.Env()), Inode(info, 0)));
}

// True if the caller should wait for room in the layer's stream before it writes more.
Napi::Value Ext4Image::FileWrite(const Napi::CallbackInfo &info)
{
    Napi::Uint8Array data = Bytes(info.Env(), info[1]);
    Check(info.Env(), ext4_file_write(Get(info.Env()), Unsigned(info, 0), data.Data(), data.ByteLength(),
                                      Unsigned(info, 2)));
    return Napi::Boolean::New(info.Env(), stream && !stream->HasRoom());
}

Napi::Value Ext4Image::FileWriteAsync(const Napi::CallbackInfo &info)
{
    ext4_image *i = Get(info.Env());
    Napi::Uint8Array from = Bytes(info.Env(), info[1]);
    uint64_t offset = Unsigned(info, 0), more = Unsigned(info, 2);
    const uint8_t *data = from.Data();
    size_t length = from.ByteLength();
    return Start(
        info.Env(), [=] { return ext4_file_write(i, offset, data, length, more); }, nullptr, from);
}

void Ext4Image::FileEnd(const Napi::CallbackInfo &info)
{
    Check(info.Env(), ext4_file_end(Get(info.Env()), Unsigned(info, 0)));
}

// Flat pairs: name, value.
void Ext4Image::SetXattrs(const Napi::CallbackInfo &info)
{
    Napi::Array list = info[1].As<Napi::Array>();
    size_t count = info[1].IsArray() ? list.Length() / 2 : 0;
    std::vector<std::string> names(count);
    std::vector<ext4_xattr> xattrs(count);
    for (size_t i = 0; i < count; i++) {
        names[i] = ByteString(list.Get((uint32_t)(2 * i)));
        Napi::Uint8Array value = Bytes(info.Env(), list.Get((uint32_t)(2 * i + 1)));
        xattrs[i] = {names[i].c_str(), value.Data(), value.ByteLength()};
    }
    Check(info.Env(), ext4_set_xattrs(Get(info.Env()), Inode(info, 0), xattrs.data(), count));
}

Napi::Value Ext4Image::Xattrs(const Napi::CallbackInfo &info)
{
    struct Context {
        Napi::Env env;
        Napi::Array out;
        uint32_t n;
    } context{info.Env(), Napi::Array::New(info.Env()), 0};
    Check(info.Env(), ext4_list_xattrs(
                          Get(info.Env()), Inode(info, 0),
                          [](void *c, const char *name, const void *value, size_t length) {
                              auto *to = static_cast<Context *>(c);
                              to->out.Set(to->n++, FromBytes(to->env, name, strlen(name)));
                              auto bytes = Napi::Uint8Array::New(to->env, length);
                              memcpy(bytes.Data(), value, length);
                              to->out.Set(to->n++, bytes);
                              return 0;
                          },
                          &context));
    return context.out;
}
