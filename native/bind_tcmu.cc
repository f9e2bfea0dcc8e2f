// TCMU for JavaScript (src/native/tcmu.ts): devices as published queues, netlink events, and the SCSI decoder
// for tests. JS thread.
#include "bindings.h"
#include "io_loop.h"
#include "netlink.h"
#include "scsi.h"
#include "tcmu_handler.h"
#include <cstring>
#include <errno.h>
#include <uv.h>
#include <vector>

static void Require(const Napi::CallbackInfo &info, bool ok, const char *expected)
{
    if (!ok)
        throw Napi::TypeError::New(info.Env(), std::string("Expected ") + expected);
}

static uint64_t Size(const Napi::CallbackInfo &info, size_t i)
{
    double d = info[i].As<Napi::Number>().DoubleValue();
    if (!(d >= 0 && d < 9007199254740992.0))
        throw Napi::RangeError::New(info.Env(), "Argument " + std::to_string(i) + " is out of range");
    return static_cast<uint64_t>(d);
}

// (path, mapSize, size, readOnly, config, serialPath) => handle of a published queue, or -errno.
static Napi::Value TcmuOpen(const Napi::CallbackInfo &info)
{
    Require(info,
            info.Length() == 6 && info[0].IsString() && info[1].IsNumber() && info[2].IsNumber() &&
                info[3].IsBoolean() && info[4].IsString() && info[5].IsString(),
            "(path, mapSize, size, readOnly, config, serialPath)");
    std::string path = info[0].As<Napi::String>(), config = info[4].As<Napi::String>(),
                serial = info[5].As<Napi::String>();
    tcmu_options options = {};
    options.size = Size(info, 2);
    options.read_only = info[3].As<Napi::Boolean>().Value();
    options.config = config.c_str();
    options.serial_path = serial.empty() ? nullptr : serial.c_str();
    io_queue *queue;
    int r = tcmu_queue_open(path.c_str(), Size(info, 1), &options, &queue);
    if (r == 0) {
        r = io_queue_publish(queue);
        if (r < 0)
            queue->ops->destroy(queue);
    }
    return Napi::Number::New(info.Env(), r);
}

// ({blocks, readOnly, config, serial?}, cdb, data, capacity) => {op, offset, length, status, sense, data}
static Napi::Value ScsiDecode(const Napi::CallbackInfo &info)
{
    Napi::Env env = info.Env();
    Require(info,
            info.Length() == 4 && info[0].IsObject() && info[1].IsBuffer() && info[2].IsBuffer() &&
                info[3].IsNumber(),
            "(device, cdb, data, capacity)");
    Napi::Object o = info[0].As<Napi::Object>();
    std::string config = o.Get("config").ToString(), serial = o.Get("serial").ToString();
    bool has_serial = o.Get("serial").IsString();
    scsi_device device = {};
    device.blocks = static_cast<uint64_t>(o.Get("blocks").ToNumber().DoubleValue());
    device.read_only = o.Get("readOnly").ToBoolean();
    device.config = config.c_str();
    device.serial = has_serial ? serial.c_str() : nullptr;
    auto cdb = info[1].As<Napi::Buffer<uint8_t>>(), data = info[2].As<Napi::Buffer<uint8_t>>();
    uint8_t padded[SCSI_CDB_MAX] = {};
    std::memcpy(padded, cdb.Data(), std::min(cdb.Length(), sizeof padded));
    scsi_result r = {};
    scsi_decode(&device, padded, data.Data(), data.Length(), Size(info, 3), &r);
    Napi::Object out = Napi::Object::New(env);
    out.Set("op", r.op);
    out.Set("offset", static_cast<double>(r.offset));
    out.Set("length", static_cast<double>(r.length));
    out.Set("status", r.status);
    out.Set("sense", Napi::Buffer<uint8_t>::Copy(env, r.sense, sizeof r.sense));
    out.Set("data", Napi::Buffer<uint8_t>::Copy(env, r.data, r.data_length));
    return out;
}

class TcmuNetlink : public Napi::ObjectWrap<TcmuNetlink>
{
  public:
    static Napi::Function Define(Napi::Env env)
    {
        return DefineClass(env, "TcmuNetlink",
                           {InstanceMethod<&TcmuNetlink::Open>("open"),
                            InstanceMethod<&TcmuNetlink::Reply>("reply"),
                            InstanceMethod<&TcmuNetlink::Close>("close")});
    }

    // (callback: (command, version, minor, deviceId, name) => void)
    explicit TcmuNetlink(const Napi::CallbackInfo &info)
        : Napi::ObjectWrap<TcmuNetlink>(info), context_(info.Env(), "TcmuNetlink")
    {
        Require(info, info.Length() == 1 && info[0].IsFunction(), "(callback)");
        callback_ = Napi::Persistent(info[0].As<Napi::Function>());
    }
    ~TcmuNetlink()
    {
        End();
    }

  private:
    struct Event {
        int command, version;
        uint32_t minor, device_id;
        std::string name;
    };
    tcmu_netlink *netlink_ = nullptr;
    uv_poll_t *poll_ = nullptr; // deleted when libuv has closed it
    Napi::FunctionReference callback_;
    Napi::AsyncContext context_;

    // Connects and announces; 0 or -errno. While open, the object must stay referenced by its owner.
    Napi::Value Open(const Napi::CallbackInfo &info)
    {
        Napi::Env env = info.Env();
        if (netlink_)
            return Napi::Number::New(env, -EALREADY);
        int r = tcmu_netlink_open(&netlink_);
        uv_loop_t *loop;
        if (r == 0 && napi_get_uv_event_loop(env, &loop) != napi_ok)
            r = -EIO;
        if (r == 0) {
            poll_ = new uv_poll_t;
            poll_->data = this;
            r = uv_poll_init(loop, poll_, tcmu_netlink_fd(netlink_));
            if (r == 0) {
                r = uv_poll_start(poll_, UV_READABLE, Readable);
            } else {
                delete poll_;
                poll_ = nullptr;
            }
        }
        if (r < 0)
            End();
        return Napi::Number::New(env, r);
    }
    static void Readable(uv_poll_t *poll, int status, int events)
    {
        static_cast<TcmuNetlink *>(poll->data)->Receive();
    }
    void Receive()
    {
        std::vector<Event> events;
        tcmu_netlink_receive(
            netlink_,
            [](void *context, const tcmu_event *e) {
                static_cast<std::vector<Event> *>(context)->push_back(
                    {e->command, e->version, e->minor, e->device_id, e->name});
            },
            &events);
        Napi::Env env = Env();
        Napi::HandleScope scope(env);
        for (const Event &e : events) {
            try {
                callback_.MakeCallback(env.Global(),
                                       {Napi::Number::New(env, e.command), Napi::Number::New(env, e.version),
                                        Napi::Number::New(env, e.minor), Napi::Number::New(env, e.device_id),
                                        Napi::String::New(env, e.name)},
                                       context_);
            } catch (const Napi::Error &error) {
                napi_fatal_exception(env, error.Value());
            }
        }
    }
    Napi::Value Reply(const Napi::CallbackInfo &info)
    {
        Require(info, info.Length() == 3 && info[0].IsNumber() && info[1].IsNumber() && info[2].IsNumber(),
                "(command, deviceId, status)");
        int r = netlink_ ? tcmu_netlink_reply(netlink_, info[0].As<Napi::Number>().Int32Value(),
                                              info[1].As<Napi::Number>().Uint32Value(),
                                              info[2].As<Napi::Number>().Int32Value())
                         : -ENOTCONN;
        return Napi::Number::New(info.Env(), r);
    }
    void End()
    {
        if (poll_) {
            uv_poll_stop(poll_);
            uv_close(reinterpret_cast<uv_handle_t *>(poll_),
                     [](uv_handle_t *handle) { delete reinterpret_cast<uv_poll_t *>(handle); });
            poll_ = nullptr;
        }
        if (netlink_)
            tcmu_netlink_close(netlink_);
        netlink_ = nullptr;
    }
    Napi::Value Close(const Napi::CallbackInfo &info)
    {
        End();
        return info.Env().Undefined();
    }
};

void RegisterTcmu(Napi::Env env, Napi::Object exports)
{
    exports.Set("tcmuOpen", Napi::Function::New(env, TcmuOpen));
    exports.Set("scsiDecode", Napi::Function::New(env, ScsiDecode));
    exports.Set("TcmuNetlink", TcmuNetlink::Define(env));
}
