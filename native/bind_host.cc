// Mounts (on the pool: they wait for devices) and process limits.
#include "bindings.h"
#include "host.h"
#include "pool_work.h"
#include "project_quota.h"
#include <string>

static std::string Text(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsString())
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a string");
    return info[i].As<Napi::String>().Utf8Value();
}

static double Number(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsNumber())
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a number");
    return info[i].As<Napi::Number>().DoubleValue();
}

static Napi::Value Mount(const Napi::CallbackInfo &info)
{
    std::string source = Text(info, 0), target = Text(info, 1), type = Text(info, 2), data = Text(info, 4);
    int flags = static_cast<int>(Number(info, 3));
    return PoolWork::Run(info.Env(), [=]() -> PoolWork::Numbers {
        return {static_cast<double>(obd_mount(source.c_str(), target.c_str(), type.c_str(), flags,
                                              data.empty() ? nullptr : data.c_str()))};
    });
}

static Napi::Value Unmount(const Napi::CallbackInfo &info)
{
    std::string target = Text(info, 0);
    bool lazy = info[1].ToBoolean();
    return PoolWork::Run(info.Env(), [=]() -> PoolWork::Numbers {
        return {static_cast<double>(obd_unmount(target.c_str(), lazy))};
    });
}

static Napi::Value ProjectQuota(const Napi::CallbackInfo &info)
{
    std::string directory = Text(info, 0);
    double project = Number(info, 1), bytes = Number(info, 2);
    if (!(project >= 0 && project <= 4294967295.0 && bytes >= 0 && bytes <= 9007199254740991.0))
        throw Napi::RangeError::New(info.Env(), "A project or a number of bytes is out of range");
    return PoolWork::Run(info.Env(), [=]() -> PoolWork::Numbers {
        return {static_cast<double>(obd_project_quota(directory.c_str(), static_cast<uint32_t>(project),
                                                      static_cast<uint64_t>(bytes)))};
    });
}

static Napi::Value RaiseFileLimit(const Napi::CallbackInfo &info)
{
    double want = Number(info, 0);
    if (!(want >= 0 && want <= 9007199254740991.0))
        throw Napi::RangeError::New(info.Env(), "Argument 0 is out of range");
    return Napi::Number::New(info.Env(),
                             static_cast<double>(obd_raise_file_limit(static_cast<uint64_t>(want))));
}

static Napi::Value SetIoFlusher(const Napi::CallbackInfo &info)
{
    return Napi::Number::New(info.Env(), obd_set_io_flusher());
}

static Napi::Value KeepHeapSmall(const Napi::CallbackInfo &info)
{
    obd_keep_heap_small();
    return info.Env().Undefined();
}

static Napi::Value ExitNow(const Napi::CallbackInfo &info)
{
    obd_exit_now(static_cast<int>(Number(info, 0)));
    return info.Env().Undefined();
}

void RegisterHost(Napi::Env env, Napi::Object exports)
{
    exports.Set("mount", Napi::Function::New(env, Mount));
    exports.Set("unmount", Napi::Function::New(env, Unmount));
    exports.Set("projectQuota", Napi::Function::New(env, ProjectQuota));
    exports.Set("setIoFlusher", Napi::Function::New(env, SetIoFlusher));
    exports.Set("keepHeapSmall", Napi::Function::New(env, KeepHeapSmall));
    exports.Set("exitNow", Napi::Function::New(env, ExitNow));
    exports.Set("raiseFileLimit", Napi::Function::New(env, RaiseFileLimit));
}
