// Unzstd: one zstd decoder. run() works on a libuv thread; the object is busy until its promise settles, and
// every other call then throws, so one thread at a time touches the decoder.
#include "async_work.h"
#include "bind_arguments.h"
#include "bindings.h"
#include "unzstd.h"

namespace
{

class Unzstd : public Napi::ObjectWrap<Unzstd>
{
  public:
    static void Register(Napi::Env env, Napi::Object exports)
    {
        exports.Set("Unzstd", DefineClass(env, "Unzstd", {InstanceMethod("run", &Unzstd::Run)}));
    }

    explicit Unzstd(const Napi::CallbackInfo &info)
        : Napi::ObjectWrap<Unzstd>(info), decoder(obd_unzstd_new())
    {
        if (!decoder)
            throw Napi::Error::New(info.Env(), "Cannot make a decoder: out of memory");
    }

    // Never while busy: the worker holds a reference.
    ~Unzstd() override
    {
        obd_unzstd_free(decoder);
    }

  private:
    struct obd_unzstd *decoder;
    bool busy = false;

    class Work : public AsyncWork
    {
      public:
        // JS thread. Decoder and buffers are held.
        Work(Napi::Env env, Unzstd *owner, Napi::Uint8Array in, Napi::Uint8Array out)
            : AsyncWork(env, "obd.unzstd"), owner(owner), in(in.Data()), in_length(in.ByteLength()),
              out(out.Data()), out_length(out.ByteLength())
        {
            Hold(owner->Value());
            Hold(in);
            Hold(out);
            Occupy(owner->busy);
        }
        // libuv thread.
        void Execute() override
        {
            status = obd_unzstd_run(owner->decoder, in, in_length, out, out_length, &in_used, &out_used);
        }
        // JS thread.
        Napi::Value Result(Napi::Env env) override
        {
            if (status < 0)
                throw Failure(env, status, obd_unzstd_problem(owner->decoder));
            Napi::Array result = Napi::Array::New(env, 3);
            result.Set(0u, Napi::Number::New(env, status));
            result.Set(1u, Napi::Number::New(env, (double)in_used));
            result.Set(2u, Napi::Number::New(env, (double)out_used));
            return result;
        }

      private:
        Unzstd *owner;
        const uint8_t *in;
        size_t in_length;
        uint8_t *out;
        size_t out_length;
        size_t in_used = 0, out_used = 0;
        int status = 0;
    };

    Napi::Value Run(const Napi::CallbackInfo &info)
    {
        if (busy)
            throw Napi::TypeError::New(info.Env(), "Decoder is running");
        Napi::Uint8Array in = Bytes(info.Env(), info[0]), out = Bytes(info.Env(), info[1]);
        return (new Work(info.Env(), this, in, out))->Start();
    }
};

} // namespace

void RegisterUnzstd(Napi::Env env, Napi::Object exports)
{
    Unzstd::Register(env, exports);
}
