// System calls that may wait for this very process to serve a device (writes, links and directories of
// configfs). Each runs on a thread of its own: on libuv's pool, four of them would starve the file reads they
// wait for.
#include "bindings.h"
#include <errno.h>
#include <fcntl.h>
#include <memory>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

enum Call { WRITE = 0, MKDIR = 1, RMDIR = 2, UNLINK = 3, SYMLINK = 4 };

static int Run(int call, const std::string &path, const std::string &argument)
{
    switch (call) {
    case WRITE: {
        int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
        if (fd < 0)
            return -errno;
        ssize_t n = write(fd, argument.data(), argument.size());
        int r = n < 0 ? -errno : static_cast<size_t>(n) == argument.size() ? 0 : -EIO;
        close(fd);
        return r;
    }
    case MKDIR:
        return mkdir(path.c_str(), 0700) ? -errno : 0;
    case RMDIR:
        return rmdir(path.c_str()) ? -errno : 0;
    case UNLINK:
        return unlink(path.c_str()) ? -errno : 0;
    case SYMLINK:
        return symlink(argument.c_str(), path.c_str()) ? -errno : 0;
    default:
        return -EINVAL;
    }
}

// (call, path, argument, callback(result)). The thread is not joined: it may wait for ever.
static Napi::Value BlockingCall(const Napi::CallbackInfo &info)
{
    Napi::Env env = info.Env();
    if (info.Length() != 4 || !info[0].IsNumber() || !info[1].IsString() || !info[2].IsString() ||
        !info[3].IsFunction())
        throw Napi::TypeError::New(env, "Expected (call, path, argument, callback)");
    int call = info[0].As<Napi::Number>().Int32Value();
    std::string path = info[1].As<Napi::String>(), argument = info[2].As<Napi::String>();
    auto done = Napi::ThreadSafeFunction::New(env, info[3].As<Napi::Function>(), "blockingCall", 0, 1);
    try {
        std::thread([call, path, argument, done]() mutable {
            int r = Run(call, path, argument);
            done.NonBlockingCall(
                [r](Napi::Env env, Napi::Function callback) { callback.Call({Napi::Number::New(env, r)}); });
            done.Release();
        }).detach();
    } catch (const std::system_error &e) {
        done.Release();
        throw Napi::Error::New(env, std::string("Cannot start a thread: ") + e.what());
    }
    return env.Undefined();
}

void RegisterBlocking(Napi::Env env, Napi::Object exports)
{
    exports.Set("blockingCall", Napi::Function::New(env, BlockingCall));
}
