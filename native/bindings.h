// One Register function per bind_*.cc file. Bindings convert and check arguments; C files beside them do the
// work.
#pragma once
#include <napi.h>

void RegisterCodec(Napi::Env env, Napi::Object exports);
void RegisterIo(Napi::Env env, Napi::Object exports);
void RegisterMemory(Napi::Env env, Napi::Object exports);
void RegisterTcmu(Napi::Env env, Napi::Object exports);
void RegisterFakeRing(Napi::Env env, Napi::Object exports);
void RegisterBlocking(Napi::Env env, Napi::Object exports);
void RegisterFile(Napi::Env env, Napi::Object exports);
void RegisterFuse(Napi::Env env, Napi::Object exports);
void RegisterHost(Napi::Env env, Napi::Object exports);
void RegisterExt4(Napi::Env env, Napi::Object exports);
void RegisterPack(Napi::Env env, Napi::Object exports);
void RegisterZFile(Napi::Env env, Napi::Object exports);
void RegisterDigest(Napi::Env env, Napi::Object exports);
void RegisterUnzstd(Napi::Env env, Napi::Object exports);
void RegisterInflate(Napi::Env env, Napi::Object exports);
void RegisterLoad(Napi::Env env, Napi::Object exports);
void RegisterSegments(Napi::Env env, Napi::Object exports);
