// Ext4Image: one ext4_image as a JavaScript object. Metadata calls are synchronous (microseconds); what can
// take long (formatting, large writes, removing trees, flushing, comparing) runs on the libuv pool and
// returns a promise. One call at a time: a call while a promise is pending throws.
//
// Names and targets are byte strings: one character (0 to 255) per byte.
#include "bindings.h"
#include "ext4_image.h"
#include "ext4_source.h"
#include <cerrno>
#include <cstring>
#include <functional>
#include <string>
#include <sys/stat.h>
#include <vector>

namespace
{

Napi::Error Failure(Napi::Env env, int status, const char *sentence)
{
    const char *name = strerrorname_np(-status);
    Napi::Error error = Napi::Error::New(env, sentence && *sentence ? sentence : strerror(-status));
    error.Set("code", Napi::String::New(env, name ? name : "EIO"));
    error.Set("errno", Napi::Number::New(env, status));
    return error;
}

std::string ByteString(const Napi::Value &value)
{
    size_t length = 0;
    if (napi_get_value_string_latin1(value.Env(), value, nullptr, 0, &length) != napi_ok)
        throw Napi::TypeError::New(value.Env(), "Expected a byte string");
    std::string s(length + 1, '\0');
    napi_get_value_string_latin1(value.Env(), value, s.data(), length + 1, &length);
    s.resize(length);
    return s;
}

Napi::Value FromBytes(Napi::Env env, const char *bytes, size_t length)
{
    napi_value value;
    if (napi_create_string_latin1(env, bytes, length, &value) != napi_ok)
        throw Napi::Error::New(env);
    return Napi::Value(env, value);
}

double Number(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsNumber())
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a number");
    return info[i].As<Napi::Number>().DoubleValue();
}

uint64_t Unsigned(const Napi::CallbackInfo &info, size_t i)
{
    double d = Number(info, i);
    if (!(d >= 0 && d <= 9007199254740991.0) || d != (double)(uint64_t)d)
        throw Napi::RangeError::New(info.Env(),
                                    "Argument " + std::to_string(i) + " is not a safe integer >= 0");
    return (uint64_t)d;
}

uint32_t Inode(const Napi::CallbackInfo &info, size_t i)
{
    uint64_t n = Unsigned(info, i);
    if (n == 0 || n > UINT32_MAX)
        throw Napi::RangeError::New(info.Env(), "Argument " + std::to_string(i) + " is not an inode number");
    return (uint32_t)n;
}

Napi::Uint8Array Bytes(Napi::Env env, const Napi::Value &value)
{
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
        throw Napi::TypeError::New(env, "Expected a Uint8Array");
    return value.As<Napi::Uint8Array>();
}

constexpr size_t ATTRIBUTES = 11, STAT = 15;

double *Doubles(const Napi::CallbackInfo &info, size_t i, size_t count)
{
    if (info.Length() <= i || !info[i].IsTypedArray() ||
        info[i].As<Napi::TypedArray>().TypedArrayType() != napi_float64_array ||
        info[i].As<Napi::Float64Array>().ElementLength() < count)
        throw Napi::TypeError::New(info.Env(),
                                   "Argument " + std::to_string(i) + " is not a Float64Array long enough");
    return info[i].As<Napi::Float64Array>().Data();
}

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

class Ext4Image : public Napi::ObjectWrap<Ext4Image>
{
  public:
    explicit Ext4Image(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Ext4Image>(info)
    {
    }

    ~Ext4Image() override
    {
        if (image)
            ext4_image_destroy(image);
    }

    static void Register(Napi::Env env, Napi::Object exports)
    {
        exports.Set("Ext4Image", DefineClass(env, "Ext4Image",
                                             {
                                                 StaticMethod("sourcePair", &Ext4Image::SourcePair),
                                                 InstanceMethod("format", &Ext4Image::Format),
                                                 InstanceMethod("open", &Ext4Image::Open),
                                                 InstanceMethod("close", &Ext4Image::Close),
                                                 InstanceMethod("fd", &Ext4Image::Fd),
                                                 InstanceMethod("flush", &Ext4Image::Flush),
                                                 InstanceMethod("changes", &Ext4Image::Changes),
                                                 InstanceMethod("nextLayer", &Ext4Image::NextLayer),
                                                 InstanceMethod("lookup", &Ext4Image::Lookup),
                                                 InstanceMethod("stat", &Ext4Image::Stat),
                                                 InstanceMethod("readdir", &Ext4Image::Readdir),
                                                 InstanceMethod("readlink", &Ext4Image::Readlink),
                                                 InstanceMethod("read", &Ext4Image::Read),
                                                 InstanceMethod("parent", &Ext4Image::Parent),
                                                 InstanceMethod("make", &Ext4Image::Make),
                                                 InstanceMethod("symlink", &Ext4Image::Symlink),
                                                 InstanceMethod("link", &Ext4Image::Link),
                                                 InstanceMethod("remove", &Ext4Image::Remove),
                                                 InstanceMethod("removeAsync", &Ext4Image::RemoveAsync),
                                                 InstanceMethod("setAttributes", &Ext4Image::SetAttributes),
                                                 InstanceMethod("fileBegin", &Ext4Image::FileBegin),
                                                 InstanceMethod("fileWrite", &Ext4Image::FileWrite),
                                                 InstanceMethod("fileWriteAsync", &Ext4Image::FileWriteAsync),
                                                 InstanceMethod("fileEnd", &Ext4Image::FileEnd),
                                                 InstanceMethod("setXattrs", &Ext4Image::SetXattrs),
                                                 InstanceMethod("xattrs", &Ext4Image::Xattrs),
                                             }));
    }

  private:
    ext4_image *image = nullptr;
    bool busy = false;

    // Runs `run` on the pool; keeps this object, and what `holds` names, alive until the promise settles.
    class Work : public Napi::AsyncWorker
    {
      public:
        std::function<int()> run;
        std::function<Napi::Value(Napi::Env)> result;
        Napi::Promise::Deferred deferred;
        Napi::ObjectReference holds;

        Work(Ext4Image *owner, Napi::Env env)
            : Napi::AsyncWorker(env), deferred(Napi::Promise::Deferred::New(env)), owner(owner)
        {
            owner->busy = true;
            owner->Ref();
        }
        void Execute() override
        {
            status = run();
        }
        void OnOK() override
        {
            owner->busy = false;
            if (status)
                deferred.Reject(Failure(Env(), status, owner->Sentence()).Value());
            else
                deferred.Resolve(result ? result(Env()) : Env().Undefined());
            owner->Unref();
        }

      private:
        Ext4Image *owner;
        int status = 0;
    };

    const char *Sentence() const
    {
        return image ? ext4_image_error(image) : "";
    }

    ext4_image *Get(Napi::Env env)
    {
        if (!image)
            throw Napi::Error::New(env, "The ext4 image is closed or was never formatted");
        if (busy)
            throw Napi::Error::New(env, "The ext4 image is busy with an earlier call");
        return image;
    }

    void Check(Napi::Env env, int status)
    {
        if (status)
            throw Failure(env, status, Sentence());
    }

    Napi::Value Start(Napi::Env env, std::function<int()> run,
                      std::function<Napi::Value(Napi::Env)> result = nullptr,
                      Napi::Object holds = Napi::Object())
    {
        auto *work = new Work(this, env);
        work->run = std::move(run);
        work->result = std::move(result);
        if (!holds.IsEmpty())
            work->holds = Napi::Persistent(holds);
        Napi::Promise promise = work->deferred.Promise();
        work->Queue();
        return promise;
    }

    Napi::Value Format(const Napi::CallbackInfo &info)
    {
        if (image || busy)
            throw Napi::Error::New(info.Env(), "The ext4 image is already formatted");
        std::string dir = info[0].ToString().Utf8Value();
        uint64_t size = Unsigned(info, 1);
        return Start(info.Env(), [this, dir, size] { return ext4_image_create(dir.c_str(), size, &image); });
    }

    static Napi::Value SourcePair(const Napi::CallbackInfo &info)
    {
        int ends[2];
        int status = ext4_source_pair(ends);
        if (status)
            throw Failure(info.Env(), status, nullptr);
        auto pair = Napi::Float64Array::New(info.Env(), 2);
        pair[0] = ends[0];
        pair[1] = ends[1];
        return pair;
    }

    // Flat pairs of runs: offset, length. The source's descriptor is taken over.
    Napi::Value Open(const Napi::CallbackInfo &info)
    {
        if (image || busy)
            throw Napi::Error::New(info.Env(), "The ext4 image is already open");
        std::string dir = info[0].ToString().Utf8Value();
        uint64_t size = Unsigned(info, 1);
        int source = (int)Unsigned(info, 2);
        const double *from = Doubles(info, 3, 0);
        auto runs = std::make_shared<std::vector<uint64_t>>();
        for (size_t i = 0; i < info[3].As<Napi::TypedArray>().ElementLength() / 2 * 2; i++)
            runs->push_back((uint64_t)from[i]);
        return Start(info.Env(), [this, dir, size, source, runs] {
            return ext4_image_open(dir.c_str(), size, source, runs->data(), runs->size() / 2, &image);
        });
    }

    void Close(const Napi::CallbackInfo &info)
    {
        if (busy)
            throw Napi::Error::New(info.Env(), "The ext4 image is busy with an earlier call");
        if (image)
            ext4_image_destroy(image);
        image = nullptr;
    }

    Napi::Value Fd(const Napi::CallbackInfo &info)
    {
        return Napi::Number::New(info.Env(), ext4_image_fd(Get(info.Env())));
    }

    Napi::Value Flush(const Napi::CallbackInfo &info)
    {
        ext4_image *i = Get(info.Env());
        return Start(info.Env(), [i] { return ext4_image_flush(i); });
    }

    // Flat triples: offset, length, kind.
    Napi::Value Changes(const Napi::CallbackInfo &info)
    {
        ext4_image *i = Get(info.Env());
        auto runs = std::make_shared<std::vector<double>>();
        return Start(
            info.Env(),
            [i, runs] {
                return ext4_image_changes(
                    i,
                    [](void *context, uint64_t offset, uint64_t length, int kind) {
                        auto *out = static_cast<std::vector<double> *>(context);
                        out->insert(out->end(), {(double)offset, (double)length, (double)kind});
                        return 0;
                    },
                    runs.get());
            },
            [runs](Napi::Env env) -> Napi::Value {
                auto array = Napi::Float64Array::New(env, runs->size());
                std::copy(runs->begin(), runs->end(), array.Data());
                return array;
            });
    }

    void NextLayer(const Napi::CallbackInfo &info)
    {
        Check(info.Env(), ext4_image_next_layer(Get(info.Env())));
    }

    // inode + 2^32 * (type >> 12), or 0.
    Napi::Value Lookup(const Napi::CallbackInfo &info)
    {
        std::string name = ByteString(info[1]);
        uint32_t inode = 0, type = 0;
        int status = ext4_lookup(Get(info.Env()), Inode(info, 0), name.data(), name.size(), &inode, &type);
        if (status == -ENOENT)
            return Napi::Number::New(info.Env(), 0);
        Check(info.Env(), status);
        return Napi::Number::New(info.Env(), inode + 4294967296.0 * (type >> 12));
    }

    void Stat(const Napi::CallbackInfo &info)
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
    Napi::Value Readdir(const Napi::CallbackInfo &info)
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

    Napi::Value Readlink(const Napi::CallbackInfo &info)
    {
        char target[4096];
        size_t length = 0;
        Check(info.Env(), ext4_readlink(Get(info.Env()), Inode(info, 0), target, sizeof target, &length));
        return FromBytes(info.Env(), target, length);
    }

    Napi::Value Read(const Napi::CallbackInfo &info)
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

    Napi::Value Parent(const Napi::CallbackInfo &info)
    {
        uint32_t parent = 0;
        Check(info.Env(), ext4_parent(Get(info.Env()), Inode(info, 0), &parent));
        return Napi::Number::New(info.Env(), parent);
    }

    Napi::Value Make(const Napi::CallbackInfo &info)
    {
        std::string name = ByteString(info[1]);
        ext4_attributes a = Attributes(info, 2);
        uint32_t inode = 0;
        Check(info.Env(), ext4_make(Get(info.Env()), Inode(info, 0), name.data(), name.size(), &a, &inode));
        return Napi::Number::New(info.Env(), inode);
    }

    Napi::Value Symlink(const Napi::CallbackInfo &info)
    {
        std::string name = ByteString(info[1]), target = ByteString(info[2]);
        ext4_attributes a = Attributes(info, 3);
        uint32_t inode = 0;
        Check(info.Env(), ext4_symlink(Get(info.Env()), Inode(info, 0), name.data(), name.size(),
                                       target.data(), target.size(), &a, &inode));
        return Napi::Number::New(info.Env(), inode);
    }

    void Link(const Napi::CallbackInfo &info)
    {
        std::string name = ByteString(info[1]);
        Check(info.Env(),
              ext4_link(Get(info.Env()), Inode(info, 0), name.data(), name.size(), Inode(info, 2)));
    }

    void Remove(const Napi::CallbackInfo &info)
    {
        std::string name = ByteString(info[1]);
        Check(info.Env(), ext4_remove(Get(info.Env()), Inode(info, 0), name.data(), name.size()));
    }

    Napi::Value RemoveAsync(const Napi::CallbackInfo &info)
    {
        ext4_image *i = Get(info.Env());
        uint32_t inode = Inode(info, 0);
        std::string name = ByteString(info[1]);
        return Start(info.Env(), [=] { return ext4_remove(i, inode, name.data(), name.size()); });
    }

    void SetAttributes(const Napi::CallbackInfo &info)
    {
        ext4_attributes a = Attributes(info, 1);
        Check(info.Env(), ext4_set_attributes(Get(info.Env()), Inode(info, 0), &a));
    }

    void FileBegin(const Napi::CallbackInfo &info)
    {
        Check(info.Env(), ext4_file_begin(Get(info.Env()), Inode(info, 0)));
    }

    void FileWrite(const Napi::CallbackInfo &info)
    {
        Napi::Uint8Array data = Bytes(info.Env(), info[1]);
        Check(info.Env(), ext4_file_write(Get(info.Env()), Unsigned(info, 0), data.Data(), data.ByteLength(),
                                          Unsigned(info, 2)));
    }

    Napi::Value FileWriteAsync(const Napi::CallbackInfo &info)
    {
        ext4_image *i = Get(info.Env());
        Napi::Uint8Array from = Bytes(info.Env(), info[1]);
        uint64_t offset = Unsigned(info, 0), more = Unsigned(info, 2);
        const uint8_t *data = from.Data();
        size_t length = from.ByteLength();
        return Start(
            info.Env(), [=] { return ext4_file_write(i, offset, data, length, more); }, nullptr, from);
    }

    void FileEnd(const Napi::CallbackInfo &info)
    {
        Check(info.Env(), ext4_file_end(Get(info.Env()), Unsigned(info, 0)));
    }

    // Flat pairs: name, value.
    void SetXattrs(const Napi::CallbackInfo &info)
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

    Napi::Value Xattrs(const Napi::CallbackInfo &info)
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
};

} // namespace

void RegisterExt4(Napi::Env env, Napi::Object exports)
{
    Ext4Image::Register(env, exports);
}
