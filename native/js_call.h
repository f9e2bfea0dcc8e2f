// A JavaScript function that other threads may call, also while its environment ends: from then on, calls do
// nothing. A bare thread-safe function must not be touched after that, and no thread could know.
#pragma once
#include <memory>
#include <mutex>
#include <napi.h>

class JsCall
{
  public:
    // JS thread. The environment stays alive until Close() or Forget().
    static std::shared_ptr<JsCall> New(Napi::Env env, Napi::Function function, const char *name)
    {
        std::shared_ptr<JsCall> call(new JsCall(env));
        call->function_ = Napi::ThreadSafeFunction::New(env, function, name, 0, 1);
        // Hooks run in reverse order: this one before that of the thread-safe function.
        if (napi_add_env_cleanup_hook(env, EnvironmentEnds, call.get()) == napi_ok)
            call->hooked_ = call;
        else
            call->Close();
        return call;
    }

    // Any thread.
    template <typename... Callback> void Call(Callback... callback)
    {
        std::lock_guard<std::mutex> guard(lock_);
        if (open_)
            function_.NonBlockingCall(callback...);
    }

    // Any thread: the calls so far will be made, and there will be no more.
    void Close()
    {
        std::lock_guard<std::mutex> guard(lock_);
        if (open_)
            function_.Release();
        open_ = false;
    }

    // JS thread, once at the end: Close(), and nothing is kept for the environment's end.
    void Forget()
    {
        Close();
        std::shared_ptr<JsCall> self = std::move(hooked_);
        if (self)
            napi_remove_env_cleanup_hook(env_, EnvironmentEnds, this);
    }

  private:
    explicit JsCall(Napi::Env env) : env_(env)
    {
    }
    static void EnvironmentEnds(void *call)
    {
        std::shared_ptr<JsCall> self = std::move(static_cast<JsCall *>(call)->hooked_);
        self->Close();
    }

    napi_env env_;
    Napi::ThreadSafeFunction function_;
    std::mutex lock_;
    bool open_ = true;
    std::shared_ptr<JsCall> hooked_; // itself, while the hook refers to it; JS thread
};
