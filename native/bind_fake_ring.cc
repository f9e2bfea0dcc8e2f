// The fake kernel for JavaScript (src/native/fake-ring.ts). A load runs on libuv's pool.
#include "async_work.h"
#include "bind_load.h"
#include "bindings.h"
#include "fake_ring.h"
#include "io_loop.h"
#include "scsi.h"
#include <errno.h>

class Load : public AsyncWork
{
  public:
    Load(Napi::Object owner, fake_ring *ring, const fake_ring_load &load, std::vector<double> targets)
        : AsyncWork(owner.Env(), "obd.load"), ring_(ring), load_(load), targets_(std::move(targets))
    {
        Hold(owner);
        load_.targets = targets_.data();
        load_.target_count = targets_.size();
    }
    void Execute() override
    {
        fake_ring_run(ring_, &load_, &result_);
    }
    Napi::Value Result(Napi::Env env) override
    {
        Napi::Object o = Napi::Object::New(env);
        o.Set("operations", static_cast<double>(result_.operations));
        o.Set("failed", static_cast<double>(result_.failed));
        o.Set("wrong", static_cast<double>(result_.wrong));
        o.Set("violations", static_cast<double>(result_.violations));
        SetTimes(o, result_.times);
        o.Set("error", result_.error);
        return o;
    }

  private:
    fake_ring *ring_;
    fake_ring_load load_;
    std::vector<double> targets_;
    fake_ring_result result_ = {};
};

class FakeRing : public Napi::ObjectWrap<FakeRing>
{
  public:
    static Napi::Function Define(Napi::Env env)
    {
        return DefineClass(
            env, "FakeRing",
            {InstanceMethod<&FakeRing::Handle>("handle"), InstanceMethod<&FakeRing::Run>("run"),
             InstanceMethod<&FakeRing::Attack>("attack"), InstanceMethod<&FakeRing::Command>("command"),
             InstanceMethod<&FakeRing::Close>("close")});
    }
    explicit FakeRing(const Napi::CallbackInfo &info) : Napi::ObjectWrap<FakeRing>(info)
    {
        Napi::Env env = info.Env();
        if (info.Length() != 1 || !info[0].IsObject())
            throw Napi::TypeError::New(env, "Expected (options)");
        Napi::Object o = info[0].As<Napi::Object>();
        fake_ring_options options = {};
        options.ring_size = static_cast<uint32_t>(Field(o, "ringSize"));
        options.data_blocks = static_cast<uint32_t>(Field(o, "dataBlocks"));
        options.device_size = static_cast<uint64_t>(Field(o, "deviceSize"));
        options.read_only = Field(o, "readOnly") != 0;
        options.verify_fd = static_cast<int>(Field(o, "verifyFd"));
        io_queue *queue;
        int r = fake_ring_create(&options, &ring_, &queue);
        if (r < 0)
            throw Napi::Error::New(env, "Cannot make a fake ring: errno " + std::to_string(-r));
        handle_ = io_queue_publish(queue);
    }
    ~FakeRing()
    {
        if (ring_)
            fake_ring_destroy(ring_);
    }

  private:
    fake_ring *ring_ = nullptr;
    int handle_ = 0;

    fake_ring *Open(const Napi::CallbackInfo &info)
    {
        if (!ring_)
            throw Napi::TypeError::New(info.Env(), "The fake ring is closed");
        return ring_;
    }
    Napi::Value Handle(const Napi::CallbackInfo &info)
    {
        return Napi::Number::New(info.Env(), handle_);
    }
    Napi::Value Run(const Napi::CallbackInfo &info)
    {
        fake_ring *ring = Open(info);
        if (info.Length() != 1 || !info[0].IsObject())
            throw Napi::TypeError::New(info.Env(), "Expected (load)");
        Napi::Object o = info[0].As<Napi::Object>();
        fake_ring_load load = {};
        load.depth = static_cast<uint32_t>(Field(o, "depth"));
        load.length = static_cast<uint32_t>(Field(o, "length"));
        load.operations = static_cast<uint64_t>(Field(o, "operations"));
        load.writes = static_cast<uint32_t>(Field(o, "writes"));
        load.sequential = Field(o, "sequential") != 0;
        load.scatter = Field(o, "scatter") != 0;
        load.seed = static_cast<uint64_t>(Field(o, "seed"));
        load.seconds = Field(o, "seconds");
        load.window = static_cast<uint64_t>(Field(o, "window"));
        if (load.length == 0 || load.length % 512)
            throw Napi::RangeError::New(info.Env(), "Option length is out of range");
        return (new Load(info.This().As<Napi::Object>(), ring, load, Targets(o)))->Start();
    }
    Napi::Value Attack(const Napi::CallbackInfo &info)
    {
        fake_ring_attack(Open(info), static_cast<enum fake_ring_attack>(info[0].ToNumber().Int32Value()),
                         info[1].ToNumber().Uint32Value());
        return info.Env().Undefined();
    }
    // (cdb, data) => status; data and sense are changed. Waits on this thread, so the loop must run on
    // another.
    Napi::Value Command(const Napi::CallbackInfo &info)
    {
        fake_ring *ring = Open(info);
        if (info.Length() != 3 || !info[0].IsBuffer() || !info[1].IsBuffer() || !info[2].IsBuffer())
            throw Napi::TypeError::New(info.Env(), "Expected (cdb, data, sense)");
        auto cdb = info[0].As<Napi::Buffer<uint8_t>>(), data = info[1].As<Napi::Buffer<uint8_t>>(),
             sense = info[2].As<Napi::Buffer<uint8_t>>();
        if (cdb.Length() != SCSI_CDB_MAX || sense.Length() != SCSI_SENSE_LENGTH)
            throw Napi::RangeError::New(info.Env(), "Expected a CDB of 16 bytes and 18 bytes of sense");
        return Napi::Number::New(info.Env(),
                                 fake_ring_command(ring, cdb.Data(), data.Data(),
                                                   static_cast<uint32_t>(data.Length()), sense.Data()));
    }
    Napi::Value Close(const Napi::CallbackInfo &info)
    {
        if (ring_)
            fake_ring_destroy(ring_);
        ring_ = nullptr;
        return info.Env().Undefined();
    }
};

void RegisterFakeRing(Napi::Env env, Napi::Object exports)
{
    exports.Set("FakeRing", FakeRing::Define(env));
}
