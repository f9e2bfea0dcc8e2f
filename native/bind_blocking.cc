// System calls that may wait for this very process to serve a device (writes, links and directories of
// configfs). Each runs on a thread of its own: on libuv's pool, four of them would starve the file reads they
// wait for.
#include "bindings.h"
#include "js_call.h"
#include <cstring>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <memory>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

constexpr size_t ATTRIBUTE_SIZE = 4096;
enum Call { WRITE = 0, MKDIR = 1, RMDIR = 2, UNLINK = 3, SYMLINK = 4, READ = 5, LIST = 6, LINK = 7 };

// The start of a file, as much as an attribute of configfs can hold.
static int Read(const std::string &path, std::string &out)
{
    int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    out.resize(ATTRIBUTE_SIZE);
    ssize_t n = read(fd, &out[0], out.size());
    int r = n < 0 ? -errno : 0;
    out.resize(n < 0 ? 0 : static_cast<size_t>(n));
    close(fd);
    return r;
}

// The names in a directory, a slash after each.
static int List(const std::string &path, std::string &out)
{
    DIR *dir = opendir(path.c_str());
    if (!dir)
        return -errno;
    while (const struct dirent *entry = readdir(dir))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            out.append(entry->d_name).push_back('/');
    closedir(dir);
    return 0;
}

static int Link(const std::string &path, std::string &out)
{
    out.resize(PATH_MAX);
    ssize_t n = readlink(path.c_str(), &out[0], out.size());
    int r = n < 0 ? -errno : 0;
    out.resize(n < 0 ? 0 : static_cast<size_t>(n));
    return r;
}

static int Run(int call, const std::string &path, const std::string &argument, std::string &out)
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
    case READ:
        return Read(path, out);
    case LIST:
        return List(path, out);
    case LINK:
        return Link(path, out);
    default:
        return -EINVAL;
    }
}

// (call, path, argument, callback(result, text)). The thread is not joined: it may wait for ever.
static Napi::Value BlockingCall(const Napi::CallbackInfo &info)
{
    Napi::Env env = info.Env();
    if (info.Length() != 4 || !info[0].IsNumber() || !info[1].IsString() || !info[2].IsString() ||
        !info[3].IsFunction())
        throw Napi::TypeError::New(env, "Expected (call, path, argument, callback)");
    int call = info[0].As<Napi::Number>().Int32Value();
    std::string path = info[1].As<Napi::String>(), argument = info[2].As<Napi::String>();
    auto done = JsCall::New(env, info[3].As<Napi::Function>(), "blockingCall");
    try {
        std::thread([call, path, argument, done] {
            std::string out;
            int r = Run(call, path, argument, out);
            done->Call([r, out, done](Napi::Env env, Napi::Function callback) {
                done->Forget();
                callback.Call({Napi::Number::New(env, r), Napi::String::New(env, out)});
            });
            done->Close();
        }).detach();
    } catch (const std::system_error &e) {
        done->Forget();
        throw Napi::Error::New(env, std::string("Cannot start a thread: ") + e.what());
    }
    return env.Undefined();
}

void RegisterBlocking(Napi::Env env, Napi::Object exports)
{
    exports.Set("blockingCall", Napi::Function::New(env, BlockingCall));
}
