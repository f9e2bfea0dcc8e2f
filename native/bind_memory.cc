// The memory queue's client for JavaScript (src/native/memory-queue.ts). JS thread; the loop's thread only
// signals.
#include "bindings.h"
#include "io_loop.h"
#include "js_call.h"
#include "memory_queue.h"
#include <errno.h>

class MemoryQueue : public Napi::ObjectWrap<MemoryQueue>
{
  public:
    static Napi::Function Define(Napi::Env env)
    {
        return DefineClass(env, "MemoryQueue",
                           {
                               InstanceMethod<&MemoryQueue::Publish>("publish"),
                               InstanceMethod<&MemoryQueue::Submit>("submit"),
                               InstanceMethod<&MemoryQueue::Drain>("drain"),
                               InstanceMethod<&MemoryQueue::Violations>("violations"),
                               InstanceMethod<&MemoryQueue::Close>("close"),
                           });
    }

    explicit MemoryQueue(const Napi::CallbackInfo &info) : Napi::ObjectWrap<MemoryQueue>(info)
    {
        Napi::Env env = info.Env();
        if (info.Length() < 3 || !info[0].IsNumber() || !info[1].IsBoolean() || !info[2].IsFunction())
            throw Napi::TypeError::New(env, "Expected (size: number, readOnly: boolean, notify: function)");
        double size = info[0].As<Napi::Number>().DoubleValue();
        if (!(size >= 0 && size < 9007199254740992.0))
            throw Napi::RangeError::New(env, "Size is out of range");
        notify_ = JsCall::New(env, info[2].As<Napi::Function>(), "MemoryQueue");
        int r = memory_queue_create(static_cast<uint64_t>(size), info[1].As<Napi::Boolean>().Value(), Notify,
                                    this, &queue_);
        if (r < 0) {
            notify_->Forget();
            throw Napi::Error::New(env, "Cannot make a memory queue: errno " + std::to_string(-r));
        }
    }
    ~MemoryQueue()
    {
        End();
    }

  private:
    memory_queue *queue_ = nullptr;
    bool published_ = false;
    std::shared_ptr<JsCall> notify_;

    // Thread: the loop's, which holds the queue's lock, so this object is still there.
    static void Notify(void *self)
    {
        static_cast<MemoryQueue *>(self)->notify_->Call();
    }
    void End()
    {
        if (!queue_)
            return;
        if (!published_) // nobody serves it
            memory_queue_server(queue_)->ops->destroy(memory_queue_server(queue_));
        memory_queue_close(queue_);
        queue_ = nullptr;
        notify_->Forget();
    }
    memory_queue *Open(const Napi::CallbackInfo &info)
    {
        if (!queue_)
            throw Napi::TypeError::New(info.Env(), "The memory queue is closed");
        return queue_;
    }
    Napi::Value Publish(const Napi::CallbackInfo &info)
    {
        memory_queue *queue = Open(info);
        if (published_)
            throw Napi::TypeError::New(info.Env(), "The memory queue is already published");
        int handle = io_queue_publish(memory_queue_server(queue));
        published_ = handle > 0;
        return Napi::Number::New(info.Env(), handle);
    }
    Napi::Value Submit(const Napi::CallbackInfo &info)
    {
        Napi::Env env = info.Env();
        memory_queue *queue = Open(info);
        if (info.Length() < 4 || !info[0].IsNumber() || !info[1].IsNumber() || !info[2].IsNumber())
            throw Napi::TypeError::New(env, "Expected (op, offset, length, data?)");
        uint32_t op = info[0].As<Napi::Number>().Uint32Value();
        double offset = info[1].As<Napi::Number>().DoubleValue(),
               length = info[2].As<Napi::Number>().DoubleValue();
        if (op < IO_READ || op > IO_FLUSH || !(offset >= 0 && offset < 9007199254740992.0) ||
            !(length >= 0 && length <= 1 << 30))
            throw Napi::RangeError::New(env, "Operation or range is out of range");
        const void *data = nullptr;
        if (op == IO_WRITE) {
            if (!info[3].IsTypedArray() ||
                static_cast<double>(info[3].As<Napi::TypedArray>().ByteLength()) != length)
                throw Napi::TypeError::New(env, "A write's data must have its length");
            Napi::TypedArray a = info[3].As<Napi::TypedArray>();
            data = static_cast<const char *>(a.ArrayBuffer().Data()) + a.ByteOffset();
        }
        return Napi::Number::New(env, memory_queue_submit(queue, static_cast<io_op>(op),
                                                          static_cast<uint64_t>(offset),
                                                          static_cast<uint64_t>(length), data));
    }
    // All answers, as a flat array of id, status, data.
    Napi::Value Drain(const Napi::CallbackInfo &info)
    {
        Napi::Env env = info.Env();
        Napi::Array answers = Napi::Array::New(env);
        int id, status;
        const void *data;
        size_t length;
        uint32_t n = 0;
        while (queue_ && memory_queue_take(queue_, &id, &status, &data, &length)) {
            answers.Set(n++, Napi::Number::New(env, id));
            answers.Set(n++, Napi::Number::New(env, status));
            answers.Set(n++, Napi::Buffer<uint8_t>::Copy(env, static_cast<const uint8_t *>(data), length));
            memory_queue_release(queue_, id);
        }
        return answers;
    }
    Napi::Value Violations(const Napi::CallbackInfo &info)
    {
        return Napi::Number::New(info.Env(), memory_queue_violations(Open(info)));
    }
    Napi::Value Close(const Napi::CallbackInfo &info)
    {
        End();
        return info.Env().Undefined();
    }
};

void RegisterMemory(Napi::Env env, Napi::Object exports)
{
    exports.Set("MemoryQueue", MemoryQueue::Define(env));
}
