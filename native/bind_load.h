// What the bindings of the makers of load share.
#pragma once
#include "load_meter.h"
#include <napi.h>
#include <string>
#include <vector>

// A number or boolean of an options object.
inline double Field(const Napi::Object &o, const char *name)
{
    Napi::Value v = o.Get(name);
    if (!v.IsNumber() && !v.IsBoolean())
        throw Napi::TypeError::New(o.Env(), std::string("Option ") + name + " is missing");
    double d = v.ToNumber().DoubleValue();
    if (!(d >= -1 && d < 9007199254740992.0))
        throw Napi::RangeError::New(o.Env(), std::string("Option ") + name + " is out of range");
    return d;
}

// A copy of the option `targets`, a Float64Array; empty if it is undefined.
inline std::vector<double> Targets(const Napi::Object &o)
{
    Napi::Value v = o.Get("targets");
    if (v.IsUndefined())
        return {};
    if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array)
        throw Napi::TypeError::New(o.Env(), "Option targets is not a Float64Array");
    auto array = v.As<Napi::Float64Array>();
    return std::vector<double>(array.Data(), array.Data() + array.ElementLength());
}

inline void SetTimes(Napi::Object o, const load_times &t)
{
    o.Set("seconds", t.seconds);
    o.Set("cpuSeconds", t.cpu_seconds);
    o.Set("p50", t.p50);
    o.Set("p99", t.p99);
    o.Set("p999", t.p999);
    o.Set("longest", t.longest);
}
