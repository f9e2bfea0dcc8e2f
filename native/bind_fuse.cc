// The kernel objects of a FUSE-served device. Every function here may wait for the kernel (one of them for
// the FUSE server), so each runs on the pool and resolves with 0 or a value, or -errno.
#include "bindings.h"
#include "fuse_device.h"
#include "fuse_handler.h"
#include "io_loop.h"
#include "loop_device.h"
#include "pool_work.h"
#include <string>

static int Int(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsNumber())
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a number");
    return info[i].As<Napi::Number>().Int32Value();
}

static std::string Text(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsString())
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a string");
    return info[i].As<Napi::String>().Utf8Value();
}

static bool Flag(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsBoolean())
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a boolean");
    return info[i].As<Napi::Boolean>().Value();
}

static Napi::Value FuseConnect(const Napi::CallbackInfo &info)
{
    std::string source = Text(info, 0);
    bool read_only = Flag(info, 1);
    return PoolWork::Run(info.Env(), [source, read_only]() -> PoolWork::Numbers {
        int fuse_fd = -1, mount_fd = -1;
        int error = obd_fuse_connect(source.c_str(), read_only, &fuse_fd, &mount_fd);
        return {double(error), double(fuse_fd), double(mount_fd)};
    });
}

static Napi::Value LoopAttach(const Napi::CallbackInfo &info)
{
    int mount_fd = Int(info, 0);
    std::string file = Text(info, 1);
    bool read_only = Flag(info, 2);
    return PoolWork::Run(info.Env(), [mount_fd, file, read_only]() -> PoolWork::Numbers {
        int number = -1;
        int handle = obd_loop_attach(mount_fd, file.c_str(), read_only, &number);
        return {double(handle < 0 ? handle : 0), double(handle), double(number)};
    });
}

static Napi::Value LoopDetach(const Napi::CallbackInfo &info)
{
    int handle = Int(info, 0);
    bool force = Flag(info, 1);
    return PoolWork::Run(info.Env(), [handle, force]() -> PoolWork::Numbers {
        return {double(obd_loop_detach(handle, force))};
    });
}

static Napi::Value LoopJoin(const Napi::CallbackInfo &info)
{
    int handle = Int(info, 0);
    return PoolWork::Run(info.Env(),
                         [handle]() -> PoolWork::Numbers { return {double(obd_loop_join(handle))}; });
}

static Napi::Value LoopRemove(const Napi::CallbackInfo &info)
{
    int number = Int(info, 0);
    return PoolWork::Run(info.Env(),
                         [number]() -> PoolWork::Numbers { return {double(obd_loop_remove(number))}; });
}

// A handle for IoLoop.add, or -errno. With a handle the descriptor belongs to the queue.
static Napi::Value FuseQueue(const Napi::CallbackInfo &info)
{
    int fd = Int(info, 0);
    std::string name = Text(info, 1);
    bool read_only = Flag(info, 3);
    double size = info[2].IsNumber() ? info[2].As<Napi::Number>().DoubleValue() : -1;
    if (!(size >= 0 && size <= 9007199254740991.0))
        throw Napi::RangeError::New(info.Env(), "Argument 2 is no size");
    struct io_queue *queue = nullptr;
    int result = obd_fuse_queue_open(fd, name.c_str(), static_cast<uint64_t>(size), read_only, &queue);
    if (result == 0 && (result = io_queue_publish(queue)) < 0)
        obd_fuse_queue_abandon(queue);
    return Napi::Number::New(info.Env(), result);
}

void RegisterFuse(Napi::Env env, Napi::Object exports)
{
    exports.Set("fuseConnect", Napi::Function::New(env, FuseConnect));
    exports.Set("fuseQueue", Napi::Function::New(env, FuseQueue));
    exports.Set("loopAttach", Napi::Function::New(env, LoopAttach));
    exports.Set("loopDetach", Napi::Function::New(env, LoopDetach));
    exports.Set("loopJoin", Napi::Function::New(env, LoopJoin));
    exports.Set("loopRemove", Napi::Function::New(env, LoopRemove));
}
