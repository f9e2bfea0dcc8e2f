// Ext4Image: making, opening and ending an image and its layers.
#include "bind_ext4.h"
#include "bindings.h"
#include "ext4_source.h"

void Ext4Image::Register(Napi::Env env, Napi::Object exports)
{
    exports.Set("Ext4Image", DefineClass(env, "Ext4Image",
                                         {
                                             StaticMethod("sourcePair", &Ext4Image::SourcePair),
                                             InstanceMethod("format", &Ext4Image::Format),
                                             InstanceMethod("open", &Ext4Image::Open),
                                             InstanceMethod("close", &Ext4Image::Close),
                                             InstanceMethod("fd", &Ext4Image::Fd),
                                             InstanceMethod("flush", &Ext4Image::Flush),
                                             InstanceMethod("changes", &Ext4Image::Changes),
                                             InstanceMethod("nextLayer", &Ext4Image::NextLayer),
                                             InstanceMethod("layerBegin", &Ext4Image::LayerBegin),
                                             InstanceMethod("layerEnd", &Ext4Image::LayerEnd),
                                             InstanceMethod("layerAbandon", &Ext4Image::LayerAbandon),
                                             InstanceMethod("lookup", &Ext4Image::Lookup),
                                             InstanceMethod("stat", &Ext4Image::Stat),
                                             InstanceMethod("readdir", &Ext4Image::Readdir),
                                             InstanceMethod("readlink", &Ext4Image::Readlink),
                                             InstanceMethod("read", &Ext4Image::Read),
                                             InstanceMethod("extents", &Ext4Image::Extents),
                                             InstanceMethod("parent", &Ext4Image::Parent),
                                             InstanceMethod("make", &Ext4Image::Make),
                                             InstanceMethod("symlink", &Ext4Image::Symlink),
                                             InstanceMethod("link", &Ext4Image::Link),
                                             InstanceMethod("remove", &Ext4Image::Remove),
                                             InstanceMethod("removeAsync", &Ext4Image::RemoveAsync),
                                             InstanceMethod("setAttributes", &Ext4Image::SetAttributes),
                                             InstanceMethod("fileBegin", &Ext4Image::FileBegin),
                                             InstanceMethod("fileWrite", &Ext4Image::FileWrite),
                                             InstanceMethod("fileWriteAsync", &Ext4Image::FileWriteAsync),
                                             InstanceMethod("fileEnd", &Ext4Image::FileEnd),
                                             InstanceMethod("setXattrs", &Ext4Image::SetXattrs),
                                             InstanceMethod("xattrs", &Ext4Image::Xattrs),
                                         }));
}

Napi::Value Ext4Image::Format(const Napi::CallbackInfo &info)
{
    if (image || busy)
        throw Napi::Error::New(info.Env(), "The ext4 image is already formatted");
    std::string dir = info[0].ToString().Utf8Value();
    uint64_t size = Unsigned(info, 1);
    return Start(info.Env(), [this, dir, size] { return ext4_image_create(dir.c_str(), size, &image); });
}

Napi::Value Ext4Image::SourcePair(const Napi::CallbackInfo &info)
{
    int ends[2];
    int status = ext4_source_pair(ends);
    if (status)
        throw Failure(info.Env(), status, nullptr);
    auto pair = Napi::Float64Array::New(info.Env(), 2);
    pair[0] = ends[0];
    pair[1] = ends[1];
    return pair;
}

// Flat pairs of runs: offset, length. The source's descriptor is taken over.
Napi::Value Ext4Image::Open(const Napi::CallbackInfo &info)
{
    if (image || busy)
        throw Napi::Error::New(info.Env(), "The ext4 image is already open");
    std::string dir = info[0].ToString().Utf8Value();
    uint64_t size = Unsigned(info, 1);
    int source = (int)Unsigned(info, 2);
    const double *from = Doubles(info, 3, 0);
    auto runs = std::make_shared<std::vector<uint64_t>>();
    for (size_t i = 0; i < info[3].As<Napi::TypedArray>().ElementLength() / 2 * 2; i++)
        runs->push_back((uint64_t)from[i]);
    return Start(info.Env(), [this, dir, size, source, runs] {
        return ext4_image_open(dir.c_str(), size, source, runs->data(), runs->size() / 2, &image);
    });
}

void Ext4Image::Close(const Napi::CallbackInfo &info)
{
    if (busy)
        throw Napi::Error::New(info.Env(), "The ext4 image is busy with an earlier call");
    Discard();
}

Napi::Value Ext4Image::Fd(const Napi::CallbackInfo &info)
{
    return Napi::Number::New(info.Env(), ext4_image_fd(Get(info.Env())));
}

Napi::Value Ext4Image::Flush(const Napi::CallbackInfo &info)
{
    ext4_image *i = Get(info.Env());
    return Start(info.Env(), [i] { return ext4_image_flush(i); });
}

// Flat triples: offset, length, kind.
Napi::Value Ext4Image::Changes(const Napi::CallbackInfo &info)
{
    ext4_image *i = Get(info.Env());
    auto runs = std::make_shared<std::vector<double>>();
    return Start(
        info.Env(),
        [i, runs] {
            return ext4_image_changes(
                i,
                [](void *context, uint64_t offset, uint64_t length, int kind) {
                    auto *out = static_cast<std::vector<double> *>(context);
                    out->insert(out->end(), {(double)offset, (double)length, (double)kind});
                    return 0;
                },
                runs.get());
        },
        [runs](Napi::Env env) -> Napi::Value {
            auto array = Napi::Float64Array::New(env, runs->size());
            std::copy(runs->begin(), runs->end(), array.Data());
            return array;
        });
}

void Ext4Image::NextLayer(const Napi::CallbackInfo &info)
{
    Check(info.Env(), ext4_image_next_layer(Get(info.Env())));
}

// The stream is in use until layerEnd() or close().
void Ext4Image::LayerBegin(const Napi::CallbackInfo &info)
{
    ext4_image *i = Get(info.Env());
    if (stream)
        throw Napi::Error::New(info.Env(), "A layer is being packed already");
    ZFileStream *to = ZFileStream::From(info[0]);
    Check(info.Env(), ext4_layer_begin(i, to->Idle(info.Env())));
    stream = to;
    stream->in_use = true;
    stream_object = Napi::Persistent(info[0].As<Napi::Object>());
}

// Flat triples: offset, length, position in the stream or -1.
Napi::Value Ext4Image::LayerEnd(const Napi::CallbackInfo &info)
{
    ext4_image *i = Get(info.Env());
    auto runs = std::make_shared<std::vector<double>>();
    return Start(
        info.Env(),
        [i, runs] {
            return ext4_layer_end(
                i,
                [](void *context, uint64_t offset, uint64_t length, uint64_t position) {
                    auto *out = static_cast<std::vector<double> *>(context);
                    out->insert(out->end(), {(double)offset, (double)length,
                                             position == EXT4_ZERO ? -1.0 : (double)position});
                    return 0;
                },
                runs.get());
        },
        [runs](Napi::Env env) -> Napi::Value {
            auto array = Napi::Float64Array::New(env, runs->size());
            std::copy(runs->begin(), runs->end(), array.Data());
            return array;
        },
        Napi::Object(), [this] { Release(); });
}

void Ext4Image::LayerAbandon(const Napi::CallbackInfo &info)
{
    ext4_layer_abandon(Get(info.Env()));
    Release();
}

void RegisterExt4(Napi::Env env, Napi::Object exports)
{
    Ext4Image::Register(env, exports);
}
