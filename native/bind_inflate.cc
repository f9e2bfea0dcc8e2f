// Inflater: one raw deflate decoder. run() works on a libuv thread; the object is busy until its promise
// settles, and every other call then throws, so one thread at a time touches the decoder.
#include "async_work.h"
#include "bindings.h"
#include "inflate.h"
#include <cerrno>

namespace
{

class Inflater : public Napi::ObjectWrap<Inflater>
{
  public:
    static void Init(Napi::Env env, Napi::Object exports)
    {
        exports.Set("Inflater", DefineClass(env, "Inflater",
                                            {InstanceMethod("start", &Inflater::Start),
                                             InstanceMethod("run", &Inflater::Run)}));
    }

    explicit Inflater(const Napi::CallbackInfo &info)
        : Napi::ObjectWrap<Inflater>(info), decoder(obd_inflate_new(info[0].ToBoolean().Value()))
    {
        if (!decoder)
            throw Napi::Error::New(info.Env(), "Cannot make a decoder: out of memory");
        // zlib's own estimate of a decoder with a 32 KiB window.
        Napi::MemoryManagement::AdjustExternalMemory(info.Env(), kMemory);
    }

    // Never while busy: the worker holds a reference.
    ~Inflater() override
    {
        obd_inflate_free(decoder);
        Napi::MemoryManagement::AdjustExternalMemory(Env(), -kMemory);
    }

    struct obd_inflate *decoder;
    bool busy = false;

  private:
    static constexpr int64_t kMemory = 44 * 1024;

    Napi::Value Start(const Napi::CallbackInfo &info);
    Napi::Value Run(const Napi::CallbackInfo &info);
};

Napi::Uint8Array Bytes(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsTypedArray() ||
        info[i].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a Uint8Array");
    return info[i].As<Napi::Uint8Array>();
}

class RunWorker : public AsyncWork
{
  public:
    // JS thread. Decoder and buffers are held.
    RunWorker(Napi::Env env, Inflater *owner, Napi::Uint8Array in, Napi::Uint8Array out)
        : AsyncWork(env, "obd.inflate"), owner(owner), in(in.Data()), in_length(in.ByteLength()),
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
        status = obd_inflate_run(owner->decoder, in, in_length, out, out_length, &in_used, &out_used);
    }

    // JS thread.
    Napi::Value Result(Napi::Env env) override
    {
        Napi::Array result = Napi::Array::New(env, 3);
        result.Set(0u, Napi::Number::New(env, status));
        result.Set(1u, Napi::Number::New(env, (double)in_used));
        result.Set(2u, Napi::Number::New(env, (double)out_used));
        return result;
    }

  private:
    Inflater *owner;
    const unsigned char *in;
    size_t in_length;
    unsigned char *out;
    size_t out_length;
    size_t in_used = 0, out_used = 0;
    int status = 0;
};

Napi::Value Inflater::Start(const Napi::CallbackInfo &info)
{
    if (busy)
        throw Napi::TypeError::New(info.Env(), "Decoder is running");
    if (info.Length() != 3 || !info[0].IsNumber() || !info[1].IsNumber())
        throw Napi::TypeError::New(info.Env(), "start takes bits, byte and dictionary");
    int bits = info[0].As<Napi::Number>().Int32Value(), byte = info[1].As<Napi::Number>().Int32Value();
    Napi::Uint8Array dictionary = Bytes(info, 2);
    int rc = obd_inflate_start(decoder, bits, byte, dictionary.Data(), dictionary.ByteLength());
    return Napi::Number::New(info.Env(), rc);
}

Napi::Value Inflater::Run(const Napi::CallbackInfo &info)
{
    if (busy)
        throw Napi::TypeError::New(info.Env(), "Decoder is running");
    Napi::Uint8Array in = Bytes(info, 0), out = Bytes(info, 1);
    return (new RunWorker(info.Env(), this, in, out))->Start();
}

} // namespace

void RegisterInflate(Napi::Env env, Napi::Object exports)
{
    Inflater::Init(env, exports);
}
