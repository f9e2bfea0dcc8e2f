// packBlocks: ZFile blocks packed on a libuv thread. Arguments are read and results made on the JS thread;
// Execute touches only the memory that the worker holds.
#include "bindings.h"
#include "pack.h"
#include <cstring>
#include <memory>

namespace
{

class PackWorker : public Napi::AsyncWorker
{
  public:
    // JS thread. `plain` is kept alive by the reference; JS does not change it until the promise settles.
    PackWorker(Napi::Env env, enum obd_codec codec, size_t block_size, Napi::Uint8Array plain)
        : Napi::AsyncWorker(env, "obd.pack"), deferred(Napi::Promise::Deferred::New(env)), codec(codec),
          block_size(block_size), in(plain.Data()), length(plain.ByteLength()),
          keep(Napi::Persistent(plain.As<Napi::Object>()))
    {
    }

    // libuv thread.
    void Execute() override
    {
        size_t capacity = obd_pack_bound(codec, block_size, length);
        size_t blocks = (length + block_size - 1) / block_size;
        out.reset(new unsigned char[capacity]);
        lengths.reset(new unsigned char[blocks * 4]);
        lengths_size = blocks * 4;
        stored = obd_pack_blocks(codec, block_size, in, length, out.get(), capacity, lengths.get());
        if (stored < 0)
            SetError(std::string("Cannot pack blocks: ") + strerror((int)-stored));
    }

    // JS thread. Copies: the packed bytes are shorter than their bound.
    void OnOK() override
    {
        Napi::Env env = Env();
        Napi::HandleScope scope(env);
        Napi::Uint8Array bytes = Napi::Uint8Array::New(env, (size_t)stored);
        memcpy(bytes.Data(), out.get(), (size_t)stored);
        Napi::Uint8Array table = Napi::Uint8Array::New(env, lengths_size);
        memcpy(table.Data(), lengths.get(), lengths_size);
        Napi::Object result = Napi::Object::New(env);
        result.Set("stored", bytes);
        result.Set("lengths", table);
        deferred.Resolve(result);
    }

    // JS thread.
    void OnError(const Napi::Error &error) override
    {
        deferred.Reject(error.Value());
    }

    Napi::Promise::Deferred deferred;

  private:
    enum obd_codec codec;
    size_t block_size;
    const unsigned char *in;
    size_t length;
    Napi::ObjectReference keep;
    std::unique_ptr<unsigned char[]> out, lengths;
    size_t lengths_size = 0;
    int64_t stored = 0;
};

} // namespace

static Napi::Value PackBlocks(const Napi::CallbackInfo &info)
{
    Napi::Env env = info.Env();
    if (info.Length() != 3 || !info[0].IsNumber() || !info[1].IsNumber() || !info[2].IsTypedArray() ||
        info[2].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
        throw Napi::TypeError::New(env, "packBlocks takes a codec, a block size and a Uint8Array");
    uint32_t codec = info[0].As<Napi::Number>().Uint32Value();
    uint32_t block_size = info[1].As<Napi::Number>().Uint32Value();
    if ((codec != OBD_CODEC_LZ4 && codec != OBD_CODEC_ZSTD) || block_size == 0 || block_size > (1u << 24))
        throw Napi::RangeError::New(env, "packBlocks: unknown codec or block size");
    auto *worker = new PackWorker(env, (enum obd_codec)codec, block_size, info[2].As<Napi::Uint8Array>());
    Napi::Promise promise = worker->deferred.Promise();
    worker->Queue();
    return promise;
}

void RegisterPack(Napi::Env env, Napi::Object exports)
{
    exports.Set("packBlocks", Napi::Function::New(env, PackBlocks));
}
