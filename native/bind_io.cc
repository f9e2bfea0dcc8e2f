// The I/O loop for JavaScript (src/native/io-loop.ts). An IoLoop belongs to the thread that made it; the
// functions beside it are for any thread. Wrong arguments throw; results are those of io_loop.h, negative
// errno included.
#include "bindings.h"
#include "io_loop.h"
#include <errno.h>
#include <sys/eventfd.h>
#include <vector>

template <typename T> static T *Doubles(const Napi::CallbackInfo &info, size_t i, size_t *count)
{
    if (info.Length() <= i || !info[i].IsTypedArray() ||
        info[i].As<Napi::TypedArray>().TypedArrayType() != napi_float64_array)
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a Float64Array");
    Napi::Float64Array a = info[i].As<Napi::Float64Array>();
    *count = a.ByteLength() / sizeof(T);
    return reinterpret_cast<T *>(a.Data());
}

static double Number(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsNumber())
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a number");
    return info[i].As<Napi::Number>().DoubleValue();
}

// A count of at most max, taken from argument i.
static size_t Count(const Napi::CallbackInfo &info, size_t i, size_t max)
{
    double d = Number(info, i);
    if (!(d >= 0 && d <= static_cast<double>(max)))
        throw Napi::RangeError::New(info.Env(), "Argument " + std::to_string(i) + " is out of range");
    return static_cast<size_t>(d);
}

static int Int(const Napi::CallbackInfo &info, size_t i)
{
    double d = Number(info, i);
    if (!(d >= -2147483648.0 && d <= 2147483647.0))
        throw Napi::RangeError::New(info.Env(), "Argument " + std::to_string(i) + " is out of range");
    return static_cast<int>(d);
}

static Napi::Uint8Array Bytes(const Napi::CallbackInfo &info, size_t i)
{
    if (info.Length() <= i || !info[i].IsTypedArray() ||
        info[i].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
        throw Napi::TypeError::New(info.Env(), "Argument " + std::to_string(i) + " is not a Uint8Array");
    return info[i].As<Napi::Uint8Array>();
}

class IoLoop : public Napi::ObjectWrap<IoLoop>
{
  public:
    static Napi::Function Define(Napi::Env env)
    {
        return DefineClass(env, "IoLoop",
                           {
                               InstanceMethod<&IoLoop::Add>("add"),
                               InstanceMethod<&IoLoop::Remove>("remove"),
                               InstanceMethod<&IoLoop::Execute>("execute"),
                               InstanceMethod<&IoLoop::ExecuteAndWait>("executeAndWait"),
                               InstanceMethod<&IoLoop::Complete>("complete"),
                               InstanceMethod<&IoLoop::CompleteRead>("completeRead"),
                               InstanceMethod<&IoLoop::WriteData>("writeData"),
                               InstanceMethod<&IoLoop::PoolMark>("poolMark"),
                               InstanceMethod<&IoLoop::PoolPassed>("poolPassed"),
                               InstanceMethod<&IoLoop::Stats>("stats"),
                               InstanceMethod<&IoLoop::Close>("close"),
                           });
    }

    explicit IoLoop(const Napi::CallbackInfo &info) : Napi::ObjectWrap<IoLoop>(info)
    {
        int r = io_loop_create(Int(info, 0), &loop_);
        if (r < 0)
            throw Napi::Error::New(info.Env(), "Cannot make an I/O loop: errno " + std::to_string(-r));
    }
    ~IoLoop()
    {
        if (loop_)
            io_loop_destroy(loop_);
    }

  private:
    io_loop *loop_ = nullptr;
    std::vector<Napi::ObjectReference> meters_{IO_MAX_QUEUES};

    io_loop *Open(const Napi::CallbackInfo &info)
    {
        if (!loop_)
            throw Napi::TypeError::New(info.Env(), "The I/O loop is closed");
        return loop_;
    }
    Napi::Value Add(const Napi::CallbackInfo &info)
    {
        io_loop *loop = Open(info);
        size_t meters;
        auto *meter = Doubles<io_meter>(info, 1, &meters);
        if (meters < 1)
            throw Napi::RangeError::New(info.Env(), "Argument 1 is too short for a meter");
        io_queue *queue = io_queue_take(Int(info, 0));
        if (!queue)
            return Napi::Number::New(info.Env(), -ENOENT);
        int r = io_loop_add(loop, queue, meter);
        if (r < 0)
            queue->ops->destroy(queue);
        else // the loop writes there until the queue is gone, and only then gives its index again
            meters_[r] = Napi::Persistent(info[1].As<Napi::Object>());
        return Napi::Number::New(info.Env(), r);
    }
    Napi::Value Remove(const Napi::CallbackInfo &info)
    {
        return Napi::Number::New(info.Env(), io_loop_remove(Open(info), Count(info, 0, IO_MAX_QUEUES)));
    }
    Napi::Value Execute(const Napi::CallbackInfo &info)
    {
        io_loop *loop = Open(info);
        size_t batch_room, plan_room;
        auto *batch = Doubles<io_planned>(info, 0, &batch_room);
        size_t batch_count = Count(info, 1, batch_room);
        auto *plan = Doubles<read_descriptor>(info, 2, &plan_room);
        size_t plan_count = Count(info, 3, plan_room);
        return Napi::Number::New(info.Env(), io_loop_execute(loop, batch, batch_count, plan, plan_count));
    }
    Napi::Value ExecuteAndWait(const Napi::CallbackInfo &info)
    {
        io_loop *loop = Open(info);
        size_t batch_room, plan_room, event_room;
        auto *batch = Doubles<io_planned>(info, 0, &batch_room);
        size_t batch_count = Count(info, 1, batch_room);
        auto *plan = Doubles<read_descriptor>(info, 2, &plan_room);
        size_t plan_count = Count(info, 3, plan_room);
        auto *events = Doubles<io_event>(info, 4, &event_room);
        int timeout = Int(info, 5);
        int r = io_loop_execute(loop, batch, batch_count, plan, plan_count);
        if (r == 0)
            r = io_loop_wait(loop, events, static_cast<int>(event_room), timeout);
        return Napi::Number::New(info.Env(), r);
    }
    Napi::Value Complete(const Napi::CallbackInfo &info)
    {
        return Napi::Number::New(info.Env(), io_loop_complete(Open(info), Number(info, 0), Int(info, 1)));
    }
    Napi::Value CompleteRead(const Napi::CallbackInfo &info)
    {
        io_loop *loop = Open(info);
        double id = Number(info, 0);
        Napi::Uint8Array data = Bytes(info, 1);
        return Napi::Number::New(info.Env(), io_loop_complete_read(loop, id, data.Data(), data.ByteLength()));
    }
    Napi::Value WriteData(const Napi::CallbackInfo &info)
    {
        io_loop *loop = Open(info);
        double id = Number(info, 0);
        Napi::Uint8Array into = Bytes(info, 1);
        return Napi::Number::New(info.Env(), io_loop_write_data(loop, id, into.Data(), into.ByteLength()));
    }
    Napi::Value PoolMark(const Napi::CallbackInfo &info)
    {
        return Napi::Number::New(info.Env(), static_cast<double>(io_loop_pool_mark(Open(info))));
    }
    Napi::Value PoolPassed(const Napi::CallbackInfo &info)
    {
        double mark = Number(info, 0);
        if (!(mark >= 0 && mark < 9007199254740992.0))
            throw Napi::RangeError::New(info.Env(), "Argument 0 is out of range");
        return Napi::Boolean::New(info.Env(), io_loop_pool_passed(Open(info), static_cast<uint64_t>(mark)));
    }
    Napi::Value Stats(const Napi::CallbackInfo &info)
    {
        io_loop_stats s = io_loop_get_stats(Open(info));
        Napi::Object o = Napi::Object::New(info.Env());
        o.Set("inlineReads", static_cast<double>(s.inline_reads));
        o.Set("poolReads", static_cast<double>(s.pool_reads));
        o.Set("retriedReads", static_cast<double>(s.retried_reads));
        o.Set("refusedPlans", static_cast<double>(s.refused_plans));
        return o;
    }
    Napi::Value Close(const Napi::CallbackInfo &info)
    {
        if (loop_)
            io_loop_destroy(loop_);
        loop_ = nullptr;
        return info.Env().Undefined();
    }
};

static Napi::Value EventFd(const Napi::CallbackInfo &info)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return Napi::Number::New(info.Env(), fd < 0 ? -errno : fd);
}

static Napi::Value DiscardQueue(const Napi::CallbackInfo &info)
{
    io_queue *queue = io_queue_take(Int(info, 0));
    if (queue)
        queue->ops->destroy(queue);
    return Napi::Boolean::New(info.Env(), queue != nullptr);
}

void RegisterIo(Napi::Env env, Napi::Object exports)
{
    exports.Set("IoLoop", IoLoop::Define(env));
    exports.Set("eventFd", Napi::Function::New(env, EventFd));
    exports.Set("discardQueue", Napi::Function::New(env, DiscardQueue));
}
