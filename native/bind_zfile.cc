#include "bind_zfile.h"
#include "bindings.h"
#include "pool_work.h"
#include <functional>

namespace
{
const napi_type_tag kTag = {0x6f62645f7a66696cULL, 0x655f73747265616dULL};
}

// A wait or the end, on a libuv thread. Keeps the object alive; the promise gives numbers.
class ZFileStream::Work : public AsyncWork
{
  public:
    using Run = std::function<int(PoolWork::Numbers &)>;

    Work(ZFileStream *owner, Napi::Env env, Run run) : AsyncWork(env, "obd.zfile"), run(std::move(run))
    {
        Hold(owner->Value());
        Occupy(owner->busy);
    }
    void Execute() override
    {
        status = run(numbers);
    }
    Napi::Value Result(Napi::Env env) override
    {
        if (status)
            throw Failure(env, status, nullptr);
        return PoolWork::Array(env, numbers);
    }

  private:
    Run run;
    PoolWork::Numbers numbers;
    int status = 0;
};

// fd (borrowed until close), offset of the first block, codec, block size, threads.
ZFileStream::ZFileStream(const Napi::CallbackInfo &info) : Napi::ObjectWrap<ZFileStream>(info)
{
    info.This().As<Napi::Object>().TypeTag(&kTag);
    uint64_t codec = Unsigned(info, 2);
    if (codec != OBD_CODEC_RAW && codec != OBD_CODEC_LZ4 && codec != OBD_CODEC_ZSTD)
        throw Napi::RangeError::New(info.Env(), "ZFileStream: unknown codec");
    int e = zfile_stream_open((int)Unsigned(info, 0), Unsigned(info, 1), (enum obd_codec)codec,
                              Unsigned(info, 3), (unsigned)Unsigned(info, 4), &stream);
    if (e)
        throw Failure(info.Env(), e, nullptr);
}

// Never while busy: the worker holds a reference; nor while in use: the image does.
ZFileStream::~ZFileStream()
{
    if (stream)
        zfile_stream_close(stream);
}

ZFileStream *ZFileStream::From(const Napi::Value &value)
{
    if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTag))
        throw Napi::TypeError::New(value.Env(), "Expected a ZFileStream");
    return Unwrap(value.As<Napi::Object>());
}

zfile_stream *ZFileStream::Idle(Napi::Env env)
{
    if (!stream)
        throw Napi::Error::New(env, "The ZFile stream is closed");
    if (busy || in_use)
        throw Napi::Error::New(env, "The ZFile stream is busy");
    return stream;
}

bool ZFileStream::HasRoom()
{
    return !stream || zfile_stream_has_room(stream);
}

// False if the caller should wait for room() before it appends more.
Napi::Value ZFileStream::Append(const Napi::CallbackInfo &info)
{
    zfile_stream *s = Idle(info.Env());
    Napi::Uint8Array plain = Bytes(info.Env(), info[0]);
    int e = zfile_stream_append(s, plain.Data(), plain.ByteLength());
    if (e)
        throw Failure(info.Env(), e, nullptr);
    return Napi::Boolean::New(info.Env(), HasRoom());
}

// Also while an image uses the stream: waiting changes nothing.
Napi::Value ZFileStream::Room(const Napi::CallbackInfo &info)
{
    if (!stream || busy)
        throw Napi::Error::New(info.Env(), "The ZFile stream is closed or busy");
    return (new Work(this, info.Env(), [s = stream](PoolWork::Numbers &) { return zfile_stream_wait(s); }))
        ->Start();
}

// Gives blocks, plain size, stored size of the blocks, checksum of the table.
Napi::Value ZFileStream::Finish(const Napi::CallbackInfo &info)
{
    zfile_stream *s = Idle(info.Env());
    auto run = [s](PoolWork::Numbers &out) {
        zfile_totals t;
        int e = zfile_stream_finish(s, &t);
        if (!e)
            out = {(double)t.blocks, (double)t.plain_size, (double)t.stored_size, (double)t.table_crc};
        return e;
    };
    return (new Work(this, info.Env(), run))->Start();
}

Napi::Value ZFileStream::Position(const Napi::CallbackInfo &info)
{
    return Napi::Number::New(info.Env(), (double)zfile_stream_position(Idle(info.Env())));
}

void ZFileStream::Close(const Napi::CallbackInfo &info)
{
    if (busy || in_use)
        throw Napi::Error::New(info.Env(), "The ZFile stream is busy");
    if (stream)
        zfile_stream_close(stream);
    stream = nullptr;
}

void ZFileStream::Register(Napi::Env env, Napi::Object exports)
{
    exports.Set("ZFileStream", DefineClass(env, "ZFileStream",
                                           {
                                               InstanceMethod("append", &ZFileStream::Append),
                                               InstanceMethod("room", &ZFileStream::Room),
                                               InstanceMethod("finish", &ZFileStream::Finish),
                                               InstanceMethod("position", &ZFileStream::Position),
                                               InstanceMethod("close", &ZFileStream::Close),
                                           }));
}

void RegisterZFile(Napi::Env env, Napi::Object exports)
{
    ZFileStream::Register(env, exports);
}
