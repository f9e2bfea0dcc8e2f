// ZFileStream: one zfile_stream as a JavaScript object. Appending is synchronous (a copy); waiting and
// finishing run on the libuv pool. Either the object's own methods are used or, while `in_use`, the image
// that packs a layer into it.
#pragma once
#include "bind_arguments.h"
#include "zfile_stream.h"

class ZFileStream : public Napi::ObjectWrap<ZFileStream>
{
  public:
    explicit ZFileStream(const Napi::CallbackInfo &info);
    ~ZFileStream() override;
    static void Register(Napi::Env env, Napi::Object exports);
    // The object behind a value; throws a TypeError if it is something else.
    static ZFileStream *From(const Napi::Value &value);
    // The stream, if nothing is under way with it; throws otherwise.
    zfile_stream *Idle(Napi::Env env);
    bool HasRoom();

    bool in_use = false; // by an image

  private:
    zfile_stream *stream = nullptr;
    bool busy = false;

    class Work;
    Napi::Value Append(const Napi::CallbackInfo &info);
    Napi::Value Room(const Napi::CallbackInfo &info);
    Napi::Value Finish(const Napi::CallbackInfo &info);
    Napi::Value Position(const Napi::CallbackInfo &info);
    void Close(const Napi::CallbackInfo &info);
};
