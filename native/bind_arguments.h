// Arguments of the bindings, checked, and errors. JS thread.
#pragma once
#include <cerrno>
#include <cstring>
#include <napi.h>
#include <string>

// A system error: code, errno, and `sentence` or what the system says.
inline Napi::Error Failure(Napi::Env env, int status, const char *sentence)
{
    const char *name = strerrorname_np(-status);
    Napi::Error error = Napi::Error::New(env, sentence && *sentence ? sentence : strerror(-status));
    error.Set("code", Napi::String::New(env, name ? name : "EIO"));
    error.Set("errno", Napi::Number::New(env, status));
    return error;
}

// One character (0 to 255) per byte.
inline std::string ByteString(const Napi::Value &value)
{
    size_t length = 0;
    if (napi_get_value_string_latin1(value.Env(), value, nullptr, 0, &length) != napi_ok)
        throw Napi::TypeError::New(value.Env(), "Expected a byte string");
    std::string s(length + 1, '\0');
    napi_get_value_string_latin1(value.Env(), value, s.data(), length + 1, &length);
    s.resize(length);
    return s;
}

inline Napi::Value FromBytes(Napi::Env env, const char *bytes, size_t length)
{
    napi_value value;
    if (napi_create_string_latin1(env, bytes, length, &value) != napi_ok)
        throw Napi::Error::New(env);
    return Napi::Value(env, value);
}

inline double Number(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsNumber())
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a number");
    return info[i].As<Napi::Number>().DoubleValue();
}

inline uint64_t Unsigned(const Napi::CallbackInfo &info, size_t i)
{
    double d = Number(info, i);
    if (!(d >= 0 && d <= 9007199254740991.0) || d != (double)(uint64_t)d)
        throw Napi::RangeError::New(info.Env(),
                                    "Argument " + std::to_string(i) + " is not a safe integer >= 0");
    return (uint64_t)d;
}

inline uint32_t Inode(const Napi::CallbackInfo &info, size_t i)
{
    uint64_t n = Unsigned(info, i);
    if (n == 0 || n > UINT32_MAX)
        throw Napi::RangeError::New(info.Env(), "Argument " + std::to_string(i) + " is not an inode number");
    return (uint32_t)n;
}

inline Napi::Uint8Array Bytes(Napi::Env env, const Napi::Value &value)
{
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
        throw Napi::TypeError::New(env, "Expected a Uint8Array");
    return value.As<Napi::Uint8Array>();
}

inline double *Doubles(const Napi::CallbackInfo &info, size_t i, size_t count)
{
    if (info.Length() <= i || !info[i].IsTypedArray() ||
        info[i].As<Napi::TypedArray>().TypedArrayType() != napi_float64_array ||
        info[i].As<Napi::Float64Array>().ElementLength() < count)
        throw Napi::TypeError::New(info.Env(),
                                   "Argument " + std::to_string(i) + " is not a Float64Array long enough");
    return info[i].As<Napi::Float64Array>().Data();
}
