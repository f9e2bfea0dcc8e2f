// Synchronous block codec and checksum on caller-owned Uint8Arrays. JS thread.
#include "bindings.h"
#include "codec.h"
#include "crc32c.h"

static Napi::Uint8Array Bytes(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsTypedArray() ||
        info[i].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a Uint8Array");
    return info[i].As<Napi::Uint8Array>();
}

static uint32_t U32(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsNumber())
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a number");
    return info[i].As<Napi::Number>().Uint32Value();
}

static Napi::Value Crc32c(const Napi::CallbackInfo &info)
{
    Napi::Uint8Array data = Bytes(info, 0);
    return Napi::Number::New(info.Env(), obd_crc32c(data.Data(), data.ByteLength(), U32(info, 1)));
}

static Napi::Value CompressBound(const Napi::CallbackInfo &info)
{
    return Napi::Number::New(info.Env(), (double)obd_codec_bound((enum obd_codec)U32(info, 0), U32(info, 1)));
}

static Napi::Value Compress(const Napi::CallbackInfo &info)
{
    Napi::Uint8Array in = Bytes(info, 1), out = Bytes(info, 2);
    return Napi::Number::New(info.Env(), (double)obd_compress((enum obd_codec)U32(info, 0), in.Data(),
                                                              in.ByteLength(), out.Data(), out.ByteLength()));
}

static Napi::Value Decompress(const Napi::CallbackInfo &info)
{
    Napi::Uint8Array in = Bytes(info, 1), out = Bytes(info, 2);
    return Napi::Number::New(info.Env(),
                             (double)obd_decompress((enum obd_codec)U32(info, 0), in.Data(), in.ByteLength(),
                                                    out.Data(), out.ByteLength()));
}

void RegisterCodec(Napi::Env env, Napi::Object exports)
{
    exports.Set("crc32c", Napi::Function::New(env, Crc32c));
    exports.Set("compressBound", Napi::Function::New(env, CompressBound));
    exports.Set("compress", Napi::Function::New(env, Compress));
    exports.Set("zstdVersion", Napi::String::New(env, obd_zstd_version()));
    exports.Set("decompress", Napi::Function::New(env, Decompress));
}
