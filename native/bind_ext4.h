// Ext4Image: one ext4_image as a JavaScript object. Metadata calls are synchronous (microseconds); what can
// take long (formatting, large writes, removing trees, flushing, comparing) runs on the libuv pool and
// returns a promise. One call at a time: a call while a promise is pending throws.
//
// Names and targets are byte strings: one character (0 to 255) per byte.
#pragma once
#include "async_work.h"
#include "bind_arguments.h"
#include "bind_zfile.h"
#include "ext4_image.h"
#include <functional>
#include <memory>
#include <vector>

class Ext4Image : public Napi::ObjectWrap<Ext4Image>
{
  public:
    explicit Ext4Image(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Ext4Image>(info)
    {
    }

    ~Ext4Image() override
    {
        Discard();
    }

    static void Register(Napi::Env env, Napi::Object exports);

  private:
    ext4_image *image = nullptr;
    bool busy = false;
    ZFileStream *stream = nullptr; // of the layer being packed
    Napi::ObjectReference stream_object;

    // Lets go of the layer's stream.
    void Release()
    {
        if (stream)
            stream->in_use = false;
        stream = nullptr;
        stream_object.Reset();
    }

    void Discard()
    {
        if (image)
            ext4_image_destroy(image);
        image = nullptr;
        Release();
    }

    // Runs `run` on the pool; keeps this object, and what `holds` names, alive until the promise settles.
    class Work : public AsyncWork
    {
      public:
        std::function<int()> run;
        std::function<Napi::Value(Napi::Env)> result;
        std::function<void()> after; // on the JS thread, whatever came out

        Work(Ext4Image *owner, Napi::Env env, Napi::Object holds) : AsyncWork(env, "obd.ext4"), owner(owner)
        {
            Hold(owner->Value());
            if (!holds.IsEmpty())
                Hold(holds);
            Occupy(owner->busy);
        }
        void Execute() override
        {
            status = run();
        }
        void Ended() override
        {
            if (after)
                after();
        }
        Napi::Value Result(Napi::Env env) override
        {
            if (status)
                throw Failure(env, status, owner->Sentence());
            return result ? result(env) : env.Undefined();
        }

      private:
        Ext4Image *owner;
        int status = 0;
    };

    const char *Sentence() const
    {
        return image ? ext4_image_error(image) : "";
    }

    ext4_image *Get(Napi::Env env)
    {
        if (!image)
            throw Napi::Error::New(env, "The ext4 image is closed or was never formatted");
        if (busy)
            throw Napi::Error::New(env, "The ext4 image is busy with an earlier call");
        return image;
    }

    void Check(Napi::Env env, int status)
    {
        if (status)
            throw Failure(env, status, Sentence());
    }

    Napi::Value Start(Napi::Env env, std::function<int()> run,
                      std::function<Napi::Value(Napi::Env)> result = nullptr,
                      Napi::Object holds = Napi::Object(), std::function<void()> after = nullptr)
    {
        auto *work = new Work(this, env, holds);
        work->run = std::move(run);
        work->result = std::move(result);
        work->after = std::move(after);
        return work->Start();
    }

    Napi::Value Format(const Napi::CallbackInfo &info);
    static Napi::Value SourcePair(const Napi::CallbackInfo &info);
    Napi::Value Open(const Napi::CallbackInfo &info);
    void Close(const Napi::CallbackInfo &info);
    Napi::Value Fd(const Napi::CallbackInfo &info);
    Napi::Value Flush(const Napi::CallbackInfo &info);
    Napi::Value Changes(const Napi::CallbackInfo &info);
    void NextLayer(const Napi::CallbackInfo &info);
    void LayerBegin(const Napi::CallbackInfo &info);
    void LayerAbandon(const Napi::CallbackInfo &info);
    Napi::Value LayerEnd(const Napi::CallbackInfo &info);
    Napi::Value Lookup(const Napi::CallbackInfo &info);
    void Stat(const Napi::CallbackInfo &info);
    Napi::Value Readdir(const Napi::CallbackInfo &info);
    Napi::Value Readlink(const Napi::CallbackInfo &info);
    Napi::Value Read(const Napi::CallbackInfo &info);
    Napi::Value Extents(const Napi::CallbackInfo &info);
    Napi::Value Parent(const Napi::CallbackInfo &info);
    Napi::Value Make(const Napi::CallbackInfo &info);
    Napi::Value Symlink(const Napi::CallbackInfo &info);
    void Link(const Napi::CallbackInfo &info);
    void Remove(const Napi::CallbackInfo &info);
    Napi::Value RemoveAsync(const Napi::CallbackInfo &info);
    void SetAttributes(const Napi::CallbackInfo &info);
    void FileBegin(const Napi::CallbackInfo &info);
    Napi::Value FileWrite(const Napi::CallbackInfo &info);
    Napi::Value FileWriteAsync(const Napi::CallbackInfo &info);
    void FileEnd(const Napi::CallbackInfo &info);
    void SetXattrs(const Napi::CallbackInfo &info);
    Napi::Value Xattrs(const Napi::CallbackInfo &info);
};
