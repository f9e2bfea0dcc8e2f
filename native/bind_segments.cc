// mergeSegments for src/native/segments.ts: (layers: Uint32Array[], most) -> Uint32Array, or -errno.
#include "bindings.h"
#include "segment_merge.h"
#include <cstdlib>
#include <cstring>
#include <vector>

static Napi::Value MergeSegments(const Napi::CallbackInfo &info)
{
    Napi::Env env = info.Env();
    if (info.Length() != 2 || !info[0].IsArray() || !info[1].IsNumber())
        throw Napi::TypeError::New(env, "Expected (layers, most)");
    Napi::Array array = info[0].As<Napi::Array>();
    std::vector<const segment *> layers;
    std::vector<size_t> counts;
    for (uint32_t i = 0; i < array.Length(); i++) {
        Napi::Value v = array.Get(i);
        if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != napi_uint32_array)
            throw Napi::TypeError::New(env, "A layer is not a Uint32Array");
        Napi::Uint32Array words = v.As<Napi::Uint32Array>();
        if (words.ByteLength() % sizeof(segment) != 0 ||
            reinterpret_cast<uintptr_t>(words.Data()) % alignof(segment) != 0)
            throw Napi::TypeError::New(env, "A layer is not whole, aligned segments");
        layers.push_back(reinterpret_cast<const segment *>(words.Data()));
        counts.push_back(words.ByteLength() / sizeof(segment));
    }
    double most = info[1].As<Napi::Number>().DoubleValue();
    segment *merged = nullptr;
    int64_t n = obd_merge_segments(layers.data(), counts.data(), layers.size(),
                                   most > 0 && most < 1e12 ? static_cast<size_t>(most) : 0, &merged);
    if (n < 0)
        return Napi::Number::New(env, static_cast<double>(n));
    Napi::Uint32Array out = Napi::Uint32Array::New(env, static_cast<size_t>(n) * 4);
    if (n > 0)
        memcpy(out.Data(), merged, static_cast<size_t>(n) * sizeof(segment));
    free(merged);
    return out;
}

void RegisterSegments(Napi::Env env, Napi::Object exports)
{
    exports.Set("mergeSegments", Napi::Function::New(env, MergeSegments));
}
