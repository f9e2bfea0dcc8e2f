// Locks and holes of files by descriptor. Locks and seeks run on the JS thread; punching has a pool form as
// well.
#include "bindings.h"
#include "file.h"
#include "pool_work.h"

static double Number(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsNumber())
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a number");
    return info[i].As<Napi::Number>().DoubleValue();
}

static Napi::Value FileLock(const Napi::CallbackInfo &info)
{
    int fd = (int)Number(info, 0), kind = (int)Number(info, 1);
    return Napi::Number::New(info.Env(), obd_file_lock(fd, kind));
}

static Napi::Value FileSeek(const Napi::CallbackInfo &info)
{
    int fd = (int)Number(info, 0), hole = (int)Number(info, 2);
    int64_t offset = (int64_t)Number(info, 1);
    return Napi::Number::New(info.Env(), (double)obd_file_seek(fd, offset, hole));
}

static Napi::Value FilePunchSync(const Napi::CallbackInfo &info)
{
    int fd = (int)Number(info, 0);
    int64_t offset = (int64_t)Number(info, 1), length = (int64_t)Number(info, 2);
    return Napi::Number::New(info.Env(), obd_file_punch(fd, offset, length));
}

// The single number a pool thread works out.
class NumberWork : public AsyncWork
{
  public:
    NumberWork(Napi::Env env, std::function<double()> work)
        : AsyncWork(env, "obd.file"), work_(std::move(work))
    {
    }
    void Execute() override
    {
        result_ = work_();
    }
    Napi::Value Result(Napi::Env env) override
    {
        return Napi::Number::New(env, result_);
    }

  private:
    std::function<double()> work_;
    double result_ = 0;
};

static Napi::Value FilePunch(const Napi::CallbackInfo &info)
{
    int fd = (int)Number(info, 0);
    int64_t offset = (int64_t)Number(info, 1), length = (int64_t)Number(info, 2);
    return (new NumberWork(info.Env(), [=]() -> double { return obd_file_punch(fd, offset, length); }))
        ->Start();
}

// from fd, from offset, to fd, to offset, length.
static Napi::Value FileCopy(const Napi::CallbackInfo &info)
{
    int from_fd = (int)Number(info, 0), to_fd = (int)Number(info, 2);
    int64_t from = (int64_t)Number(info, 1), to = (int64_t)Number(info, 3), length = (int64_t)Number(info, 4);
    return PoolWork::Run(info.Env(), [=]() -> PoolWork::Numbers {
        return {(double)obd_file_copy(from_fd, from, to_fd, to, length)};
    });
}

void RegisterFile(Napi::Env env, Napi::Object exports)
{
    exports.Set("fileLock", Napi::Function::New(env, FileLock));
    exports.Set("fileSeek", Napi::Function::New(env, FileSeek));
    exports.Set("fileCopy", Napi::Function::New(env, FileCopy));
    exports.Set("filePunch", Napi::Function::New(env, FilePunch));
    exports.Set("filePunchSync", Napi::Function::New(env, FilePunchSync));
}
