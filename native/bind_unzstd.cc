// Unzstd: one zstd decoder. run() works on a libuv thread; the object is busy until its promise settles, and
// every other call then throws, so one thread at a time touches the decoder.
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

    class Work : public Napi::AsyncWorker
    {
      public:
        Napi::Promise::Deferred deferred;

        // JS thread. The references keep decoder and buffers alive.
        Work(Napi::Env env, Unzstd *owner, Napi::Uint8Array in, Napi::Uint8Array out)
            : Napi::AsyncWorker(env, "obd.unzstd"), deferred(Napi::Promise::Deferred::New(env)), owner(owner),
              keep_owner(Napi::Persistent(owner->Value())), keep_in(Napi::Persistent(in.As<Napi::Object>())),
              keep_out(Napi::Persistent(out.As<Napi::Object>())), in(in.Data()), in_length(in.ByteLength()),
              out(out.Data()), out_length(out.ByteLength())
        {
            owner->busy = true;
        }
        // libuv thread.
        void Execute() override
        {
            status = obd_unzstd_run(owner->decoder, in, in_length, out, out_length, &in_used, &out_used);
        }
        // JS thread.
        void OnOK() override
        {
            Napi::HandleScope scope(Env());
            owner->busy = false;
            if (status < 0) {
                deferred.Reject(Failure(Env(), status, obd_unzstd_problem(owner->decoder)).Value());
                return;
            }
            Napi::Array result = Napi::Array::New(Env(), 3);
            result.Set(0u, Napi::Number::New(Env(), status));
            result.Set(1u, Napi::Number::New(Env(), (double)in_used));
            result.Set(2u, Napi::Number::New(Env(), (double)out_used));
            deferred.Resolve(result);
        }

      private:
        Unzstd *owner;
        Napi::ObjectReference keep_owner, keep_in, keep_out;
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
        auto *work = new Work(info.Env(), this, in, out);
        Napi::Promise promise = work->deferred.Promise();
        work->Queue();
        return promise;
    }
};

} // namespace

void RegisterUnzstd(Napi::Env env, Napi::Object exports)
{
    Unzstd::Register(env, exports);
}
