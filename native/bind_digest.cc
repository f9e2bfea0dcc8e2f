// Digest: sha256 or sha512 on libuv threads. One call at a time: the object is busy until its promise
// settles.
#include "async_work.h"
#include "bind_arguments.h"
#include "bindings.h"
#include "digest.h"
#include <functional>
#include <vector>

namespace
{

class Digest : public Napi::ObjectWrap<Digest>
{
  public:
    static void Register(Napi::Env env, Napi::Object exports)
    {
        exports.Set("Digest", DefineClass(env, "Digest",
                                          {
                                              InstanceMethod("update", &Digest::Update),
                                              InstanceMethod("file", &Digest::File),
                                              InstanceMethod("end", &Digest::End),
                                          }));
    }

    explicit Digest(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Digest>(info)
    {
        std::string name = info[0].ToString().Utf8Value();
        digest = obd_digest_new(name.c_str());
        if (!digest)
            throw Napi::RangeError::New(info.Env(), "Cannot make a digest \"" + name + "\"");
    }

    // Never while busy: the worker holds a reference.
    ~Digest() override
    {
        if (digest)
            obd_digest_free(digest);
    }

  private:
    obd_digest *digest = nullptr;
    bool busy = false, ended = false;

    class Work : public AsyncWork
    {
      public:
        // `held` is kept alive: the owner of the bytes.
        Work(Digest *owner, Napi::Env env, Napi::Object held, std::function<int()> run)
            : AsyncWork(env, "obd.digest"), run(std::move(run))
        {
            Hold(owner->Value());
            Hold(held);
            Occupy(owner->busy);
        }
        void Execute() override
        {
            status = run();
        }
        Napi::Value Result(Napi::Env env) override
        {
            if (status)
                throw Failure(env, status, nullptr);
            return env.Undefined();
        }

      private:
        std::function<int()> run;
        int status = 0;
    };

    obd_digest *Idle(Napi::Env env)
    {
        if (busy || ended)
            throw Napi::Error::New(env, busy ? "The digest is busy" : "The digest has ended");
        return digest;
    }

    Napi::Value Start(Napi::Env env, Napi::Object held, std::function<int()> run)
    {
        return (new Work(this, env, held, std::move(run)))->Start();
    }

    // An array of Uint8Arrays, which do not change until the promise settles.
    Napi::Value Update(const Napi::CallbackInfo &info)
    {
        obd_digest *d = Idle(info.Env());
        if (!info[0].IsArray())
            throw Napi::TypeError::New(info.Env(), "Expected an array");
        Napi::Array list = info[0].As<Napi::Array>();
        std::vector<std::pair<const uint8_t *, size_t>> parts;
        for (uint32_t i = 0; i < list.Length(); i++) {
            Napi::Uint8Array bytes = Bytes(info.Env(), list.Get(i));
            parts.emplace_back(bytes.Data(), bytes.ByteLength());
        }
        return Start(info.Env(), list, [d, parts = std::move(parts)] {
            int e = 0;
            for (size_t i = 0; i < parts.size() && !e; i++)
                e = obd_digest_update(d, parts[i].first, parts[i].second);
            return e;
        });
    }

    // fd, offset, length.
    Napi::Value File(const Napi::CallbackInfo &info)
    {
        obd_digest *d = Idle(info.Env());
        int fd = (int)Unsigned(info, 0);
        uint64_t offset = Unsigned(info, 1), length = Unsigned(info, 2);
        return Start(info.Env(), Value(), [=] { return obd_digest_file(d, fd, offset, length); });
    }

    Napi::Value End(const Napi::CallbackInfo &info)
    {
        char hex[130];
        int e = obd_digest_end(Idle(info.Env()), hex, sizeof hex);
        if (e)
            throw Failure(info.Env(), e, nullptr);
        ended = true;
        return Napi::String::New(info.Env(), hex);
    }
};

} // namespace

void RegisterDigest(Napi::Env env, Napi::Object exports)
{
    Digest::Register(env, exports);
}
