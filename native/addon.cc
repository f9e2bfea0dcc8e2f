// The addon's only entry point: every bind_*.cc registers its functions here.
#include "bindings.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports)
{
    RegisterCodec(env, exports);
    RegisterIo(env, exports);
    RegisterMemory(env, exports);
    RegisterTcmu(env, exports);
    RegisterFakeRing(env, exports);
    RegisterBlocking(env, exports);
    RegisterFile(env, exports);
    RegisterFuse(env, exports);
    RegisterHost(env, exports);
    RegisterExt4(env, exports);
    RegisterPack(env, exports);
    RegisterZFile(env, exports);
    RegisterDigest(env, exports);
    RegisterUnzstd(env, exports);
    RegisterInflate(env, exports);
    RegisterLoad(env, exports);
    RegisterSegments(env, exports);
    return exports;
}

NODE_API_MODULE(overlaybd, Init)
