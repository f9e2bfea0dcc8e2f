// A piece of work on a libuv thread and its promise: what every asynchronous binding is made of.
//
// The environment may end while work is under way (a worker thread is terminated, the process exits). Node.js
// then still reports the work as done, but nearly every call into it fails, and an exception that leaves that
// report would abort the process. So the promise, which nobody can wait for any more, stays as it is, and all
// the work holds is let go of as usual.
#pragma once
#include <napi.h>
#include <string>
#include <vector>

// Execute(): libuv thread; the rest: JS thread. Deletes itself when done.
class AsyncWork : public Napi::AsyncWorker
{
  public:
    // Queues the work, which from then on belongs to itself. The promise resolves with Result(), or rejects
    // with what Execute() or Result() throws.
    Napi::Promise Start()
    {
        Napi::Promise promise = deferred_.Promise();
        try {
            Queue();
        } catch (...) {
            Free();
            delete this;
            throw;
        }
        return promise;
    }

  protected:
    explicit AsyncWork(Napi::Env env, const char *name)
        : Napi::AsyncWorker(env, name), deferred_(Napi::Promise::Deferred::New(env))
    {
    }

    // Keeps an object alive until the promise has settled: the owner of memory the work uses.
    void Hold(Napi::Object object)
    {
        held_.push_back(Napi::Persistent(object));
    }

    // Sets the flag of a held owner until the promise settles. The last step of a constructor: it has no
    // undo.
    void Occupy(bool &busy)
    {
        busy_ = &busy;
        busy = true;
    }

    // What the promise resolves with; a Napi::Error thrown here rejects it.
    virtual Napi::Value Result(Napi::Env env) = 0;

    // Runs before the promise settles, whatever came out, also if the environment is ending.
    virtual void Ended()
    {
    }

  private:
    void OnExecute(Napi::Env) final
    {
        try {
            Execute();
        } catch (const std::exception &e) {
            Failed(e.what());
        } catch (...) {
            Failed("");
        }
    }

    void OnWorkComplete(Napi::Env env, napi_status) final
    {
        try {
            Napi::HandleScope scope(env);
            Free();
            Settle(env);
        } catch (const std::exception &) {
            // The environment is ending: nobody waits for the promise.
        }
        delete this;
    }

    void Free()
    {
        if (busy_)
            *busy_ = false;
        busy_ = nullptr;
        Ended();
    }

    void Settle(Napi::Env env)
    {
        Napi::Value outcome;
        bool rejected = failed_;
        try {
            outcome = failed_ ? Napi::Error::New(env, error_).Value() : Result(env);
        } catch (const Napi::Error &e) {
            outcome = e.Value();
            rejected = true;
        } catch (const std::exception &e) {
            outcome = Napi::Error::New(env, e.what()).Value();
            rejected = true;
        }
        // Once at most: a deferred is gone even if settling it failed.
        if (rejected)
            deferred_.Reject(outcome);
        else
            deferred_.Resolve(outcome);
    }

    void Failed(const char *why)
    {
        failed_ = true;
        error_ = *why ? why : "A native exception was thrown";
    }

    Napi::Promise::Deferred deferred_;
    std::vector<Napi::ObjectReference> held_;
    bool *busy_ = nullptr;
    bool failed_ = false;
    std::string error_;
};
