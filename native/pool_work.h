// A piece of work for the libuv pool that gives numbers: the promise of every binding that may wait for the
// kernel.
#pragma once
#include "async_work.h"
#include <functional>

// Execute: pool thread; the rest: JS thread. Deletes itself when done.
class PoolWork : public AsyncWork
{
  public:
    using Numbers = std::vector<double>;

    // `work` runs on a pool thread and owns all it captures. The promise resolves with an array of its
    // numbers.
    static Napi::Value Run(Napi::Env env, std::function<Numbers()> work)
    {
        return (new PoolWork(env, std::move(work)))->Start();
    }
    void Execute() override
    {
        result_ = work_();
    }
    Napi::Value Result(Napi::Env env) override
    {
        return Array(env, result_);
    }
    static Napi::Value Array(Napi::Env env, const Numbers &numbers)
    {
        Napi::Array array = Napi::Array::New(env, numbers.size());
        for (uint32_t i = 0; i < numbers.size(); i++)
            array.Set(i, Napi::Number::New(env, numbers[i]));
        return array;
    }

  private:
    PoolWork(Napi::Env env, std::function<Numbers()> work)
        : AsyncWork(env, "obd.pool"), work_(std::move(work))
    {
    }
    std::function<Numbers()> work_;
    Numbers result_;
};
