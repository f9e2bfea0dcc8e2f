// Loads on files, and the yardstick server (src/native/load.ts). A load runs on libuv's pool.
#include "bind_load.h"
#include "async_work.h"
#include "bindings.h"
#include "file_load.h"
#include "io_loop.h"
#include "plain_server.h"
#include <fcntl.h>

class FileLoad : public AsyncWork
{
  public:
    FileLoad(Napi::Env env, const file_load &load, std::vector<double> targets)
        : AsyncWork(env, "obd.load"), load_(load), targets_(std::move(targets))
    {
        load_.places.targets = targets_.data();
        load_.places.target_count = targets_.size();
    }
    void Execute() override
    {
        file_load_run(&load_, &result_);
    }
    Napi::Value Result(Napi::Env env) override
    {
        Napi::Object o = Napi::Object::New(env);
        o.Set("operations", static_cast<double>(result_.operations));
        o.Set("failed", static_cast<double>(result_.failed));
        o.Set("firstFailure", result_.first_failure);
        o.Set("error", result_.error);
        SetTimes(o, result_.times);
        return o;
    }

  private:
    file_load load_;
    std::vector<double> targets_;
    file_load_result result_ = {};
};

static Napi::Value RunFileLoad(const Napi::CallbackInfo &info)
{
    if (info.Length() != 1 || !info[0].IsObject())
        throw Napi::TypeError::New(info.Env(), "Expected (load)");
    Napi::Object o = info[0].As<Napi::Object>();
    file_load load = {};
    load.fd = static_cast<int>(Field(o, "fd"));
    load.depth = static_cast<uint32_t>(Field(o, "depth"));
    load.places.length = static_cast<uint32_t>(Field(o, "length"));
    load.places.size = static_cast<uint64_t>(Field(o, "size"));
    load.places.sequential = Field(o, "sequential") != 0;
    load.places.window = static_cast<uint64_t>(Field(o, "window"));
    load.seconds = Field(o, "seconds");
    load.writes = static_cast<uint32_t>(Field(o, "writes"));
    load.seed = static_cast<uint64_t>(Field(o, "seed"));
    return (new FileLoad(info.Env(), load, Targets(o)))->Start();
}

// (fd): the file leaves the page cache, as far as it is clean. 0 or -errno.
static Napi::Value DropCache(const Napi::CallbackInfo &info)
{
    int fd = info[0].ToNumber().Int32Value();
    return Napi::Number::New(info.Env(), -posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
}

class PlainServer : public Napi::ObjectWrap<PlainServer>
{
  public:
    static Napi::Function Define(Napi::Env env)
    {
        return DefineClass(env, "PlainServer", {InstanceMethod<&PlainServer::Close>("close")});
    }
    explicit PlainServer(const Napi::CallbackInfo &info) : Napi::ObjectWrap<PlainServer>(info)
    {
        if (info.Length() != 2 || !info[0].IsNumber() || !info[1].IsNumber())
            throw Napi::TypeError::New(info.Env(), "Expected (handle, fd)");
        io_queue *queue = io_queue_take(info[0].As<Napi::Number>().Int32Value());
        if (!queue)
            throw Napi::TypeError::New(info.Env(), "No queue has this handle");
        int r = plain_server_start(queue, info[1].As<Napi::Number>().Int32Value(), &server_);
        if (r < 0)
            throw Napi::Error::New(info.Env(), "Cannot start a thread: errno " + std::to_string(-r));
    }
    ~PlainServer()
    {
        if (server_)
            plain_server_stop(server_);
    }

  private:
    plain_server *server_ = nullptr;

    Napi::Value Close(const Napi::CallbackInfo &info)
    {
        if (server_)
            plain_server_stop(server_);
        server_ = nullptr;
        return info.Env().Undefined();
    }
};

void RegisterLoad(Napi::Env env, Napi::Object exports)
{
    exports.Set("fileLoad", Napi::Function::New(env, RunFileLoad));
    exports.Set("dropCache", Napi::Function::New(env, DropCache));
    exports.Set("PlainServer", PlainServer::Define(env));
}
