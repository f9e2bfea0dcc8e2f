// A piece of work for the libuv pool that gives numbers: the promise of every binding that may wait for the
// kernel.
#pragma once
#include <functional>
#include <napi.h>
#include <vector>

// Execute: pool thread; the rest: JS thread. Deletes itself when done.
class PoolWork : public Napi::AsyncWorker
{
  public:
    using Numbers = std::vector<double>;

    // `work` runs on a pool thread and owns all it captures. The promise resolves with an array of its
    // numbers.
    static Napi::Value Run(Napi::Env env, std::function<Numbers()> work)
    {
        auto *w = new PoolWork(env, std::move(work));
        Napi::Promise promise = w->deferred_.Promise();
        w->Queue();
        return promise;
    }
    void Execute() override
    {
        result_ = work_();
    }
    void OnOK() override
    {
        Napi::Array array = Napi::Array::New(Env(), result_.size());
        for (uint32_t i = 0; i < result_.size(); i++)
            array.Set(i, Napi::Number::New(Env(), result_[i]));
        deferred_.Resolve(array);
    }
    void OnError(const Napi::Error &error) override
    {
        deferred_.Reject(error.Value());
    }

  private:
    PoolWork(Napi::Env env, std::function<Numbers()> work)
        : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), work_(std::move(work))
    {
    }
    Napi::Promise::Deferred deferred_;
    std::function<Numbers()> work_;
    Numbers result_;
};
