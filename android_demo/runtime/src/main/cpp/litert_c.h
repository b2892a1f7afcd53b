// The part of LiteRT's C API that this library uses, found in libLiteRt.so when it is opened: an app without LiteRT
// bundles ships without it. Declarations follow litert/c of github.com/google-ai-edge/LiteRT (Apache-2.0).
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgeb::litert {

using Environment = struct LiteRtEnvironmentT *;
using Model = struct LiteRtModelT *;
using Options = struct LiteRtOptionsT *;
using OpaqueOptions = struct LiteRtOpaqueOptionsT *;
using Compiled = struct LiteRtCompiledModelT *;
using Signature = struct LiteRtSignatureT *;
using Tensor = struct LiteRtTensorT *;
using Buffer = struct LiteRtTensorBufferT *;
// 0 is success.
using Status = int;

constexpr int kCpu = 1 << 0;
constexpr int kGpu = 1 << 1;
constexpr int kNpu = 1 << 2;
constexpr int kFloat32 = 1;
constexpr int kInt32 = 2;
constexpr int kMaxRank = 8;
// Host memory has to begin at a multiple of this.
constexpr size_t kAlignment = 64;

struct Layout {
    unsigned int rank : 7;
    unsigned int has_strides : 1;
    int32_t dimensions[kMaxRank];
    uint32_t strides[kMaxRank];
};
struct TensorType {
    int element_type;
    Layout layout;
};
static_assert(sizeof(TensorType) == 72, "as LiteRT's header asserts of LiteRtRankedTensorType");

// Where LiteRT looks for a vendor's dispatch library and for its accelerators, and what it logs.
constexpr int kDispatchLibraryDir = 1;
constexpr int kRuntimeLibraryDir = 22;
constexpr int kMinLoggerSeverity = 25;
constexpr int kAnyInt = 2;
constexpr int kAnyString = 8;
constexpr int kSeverityError = 3;

struct Any {
    int type;
    union {
        int64_t number;
        const char * text;
    };
};
struct EnvironmentOption {
    int tag;
    Any value;
};
static_assert(sizeof(EnvironmentOption) == 24, "as LiteRT's header asserts of LiteRtEnvOption");

// Name and type of each function; `Library` has a pointer of that name to it.
#define EDGEB_LITERT_FUNCTIONS(X)                                                                                      \
    X(Status, CreateEnvironment, (int, const EnvironmentOption *, Environment *))                                      \
    X(void, DestroyEnvironment, (Environment))                                                                         \
    X(Status, CreateModelFromFile, (Environment, const char *, Model *))                                               \
    X(Status, CreateModelFromBuffer, (Environment, const void *, size_t, Model *))                                     \
    X(Status, CreateModelFromFd, (Environment, int, size_t, size_t, Model *))                                          \
    X(void, DestroyModel, (Model))                                                                                     \
    X(Status, CreateOptions, (Options *))                                                                              \
    X(void, DestroyOptions, (Options))                                                                                 \
    X(Status, SetOptionsHardwareAccelerators, (Options, int))                                                          \
    X(Status, CreateOpaqueOptions, (const char *, void *, void (*)(void *), OpaqueOptions *))                          \
    X(Status, AddOpaqueOptions, (Options, OpaqueOptions))                                                              \
    X(Status, CreateCompiledModel, (Environment, Model, Options, Compiled *))                                          \
    X(void, DestroyCompiledModel, (Compiled))                                                                          \
    X(Status, CompiledModelIsFullyAccelerated, (Compiled, bool *))                                                     \
    X(Status, SetCompiledModelCancellationFunction, (Compiled, void *, bool (*)(void *)))                              \
    X(Status, RunCompiledModel, (Compiled, size_t, size_t, Buffer *, size_t, Buffer *))                                \
    X(Status, GetNumModelSignatures, (Model, size_t *))                                                                \
    X(Status, GetModelSignature, (Model, size_t, Signature *))                                                         \
    X(Status, GetSignatureKey, (Signature, const char **))                                                             \
    X(Status, GetNumSignatureInputs, (Signature, size_t *))                                                            \
    X(Status, GetSignatureInputName, (Signature, size_t, const char **))                                               \
    X(Status, GetSignatureInputTensorByIndex, (Signature, size_t, Tensor *))                                           \
    X(Status, GetNumSignatureOutputs, (Signature, size_t *))                                                           \
    X(Status, GetSignatureOutputName, (Signature, size_t, const char **))                                              \
    X(Status, GetSignatureOutputTensorByIndex, (Signature, size_t, Tensor *))                                          \
    X(Status, GetRankedTensorType, (Tensor, TensorType *))                                                             \
    X(Status, CreateTensorBufferFromHostMemory, (const TensorType *, void *, size_t, void (*)(void *), Buffer *))      \
    X(void, DestroyTensorBuffer, (Buffer))

struct Library {
#define EDGEB_LITERT_POINTER(result, name, arguments) result(*name) arguments = nullptr;
    EDGEB_LITERT_FUNCTIONS(EDGEB_LITERT_POINTER)
#undef EDGEB_LITERT_POINTER
};

} // namespace edgeb::litert
