// packBlocks: ZFile blocks packed on a libuv thread. Arguments are read and results made on the JS thread;
// Execute touches only the memory that the worker holds.
#include "async_work.h"
#include "bindings.h"
#include "pack.h"
#include <cstring>
#include <memory>
#include <stdexcept>

namespace
{

class PackWorker : public AsyncWork
{
  public:
    // JS thread. `plain` is held; JS does not change it until the promise settles.
    PackWorker(Napi::Env env, enum obd_codec codec, size_t block_size, Napi::Uint8Array plain)
        : AsyncWork(env, "obd.pack"), codec(codec), block_size(block_size), in(plain.Data()),
          length(plain.ByteLength())
    {
        Hold(plain);
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
            throw std::runtime_error(std::string("Cannot pack blocks: ") + strerror((int)-stored));
    }

    // JS thread. Copies: the packed bytes are shorter than their bound.
    Napi::Value Result(Napi::Env env) override
    {
        Napi::Uint8Array bytes = Napi::Uint8Array::New(env, (size_t)stored);
        memcpy(bytes.Data(), out.get(), (size_t)stored);
        Napi::Uint8Array table = Napi::Uint8Array::New(env, lengths_size);
        memcpy(table.Data(), lengths.get(), lengths_size);
        Napi::Object result = Napi::Object::New(env);
        result.Set("stored", bytes);
        result.Set("lengths", table);
        return result;
    }

  private:
    enum obd_codec codec;
    size_t block_size;
    const unsigned char *in;
    size_t length;
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
    return (new PackWorker(env, (enum obd_codec)codec, block_size, info[2].As<Napi::Uint8Array>()))->Start();
}

void RegisterPack(Napi::Env env, Napi::Object exports)
{
    exports.Set("packBlocks", Napi::Function::New(env, PackBlocks));
}
