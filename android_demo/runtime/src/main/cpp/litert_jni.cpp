// LiteRT for dev.edgeb.runtime.LiteRtJni: signatures run over memory that Kotlin fills and reads. Uses LiteRT's C API.
//
// A handle is the address of a Runtime or a Compiled. Everything that comes from Java is checked before LiteRT sees it,
// and every failure leaves as a dev.edgeb.core.EdgebException. There are no globals; the Kotlin side keeps two calls
// from one handle at a time. Knows names and shapes of tensors, not what they mean.

#include <dlfcn.h>
#include <jni.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "jni_support.h"
#include "litert_c.h"

namespace {

using edgeb::fail;
using edgeb::guarded;
using edgeb::ints;
using edgeb::text_of;
namespace litert = edgeb::litert;

constexpr const char * kExport = "export the bundle again";
constexpr int kMaxThreads = 512;
// LiteRT's kernels may read that far beyond a tensor's end.
constexpr size_t kBeyond = 128;

void check(litert::Status status, const std::string & what, const char * hint,
           const char * code = edgeb::kEngineFailed) {
    if (status != 0) {
        fail(what + " (LiteRT's status " + std::to_string(status) + ", its log may say more)", hint, code);
    }
}

// LiteRT, opened. Stays until the process ends: accelerators leave threads behind that outlive their environment. The
// NPU has an environment of its own, since one with a vendor's library offers it every model, the CPU's as well.
struct Runtime {
    litert::Library api;
    litert::Environment environment = nullptr;
    std::string npu_folder;
    std::mutex npu_lock;
    litert::Environment npu_environment = nullptr;
};

// Of dev.edgeb.core.Accelerator, by its ordinal.
struct Hardware {
    int flag;
    const char * name;
};
constexpr Hardware kHardware[] = {{litert::kCpu, "CPU"}, {litert::kGpu, "GPU"}, {litert::kNpu, "NPU"}};

struct Memory {
    void * address;
    size_t bytes;
};

// A signature with its buffers, in LiteRT's order.
struct Bound {
    size_t signature;
    std::vector<litert::Buffer> inputs;
    std::vector<litert::Buffer> outputs;
};

// A compiled model, its memory, and what is bound to it.
struct Compiled {
    Compiled(const litert::Library & functions, litert::Environment where) : api(functions), environment(where) {}
    Compiled(const Compiled &) = delete;
    Compiled & operator=(const Compiled &) = delete;
    ~Compiled() {
        for (const Bound & one : bound) {
            release(one);
        }
        if (compiled != nullptr) {
            api.DestroyCompiledModel(compiled);
        }
        if (model != nullptr) {
            api.DestroyModel(model);
        }
        for (const Memory & one : memory) {
            std::free(one.address);
        }
    }

    void release(const Bound & one) const {
        for (const litert::Buffer buffer : one.inputs) {
            api.DestroyTensorBuffer(buffer);
        }
        for (const litert::Buffer buffer : one.outputs) {
            api.DestroyTensorBuffer(buffer);
        }
    }

    const litert::Library & api;
    const litert::Environment environment;
    litert::Model model = nullptr;
    litert::Compiled compiled = nullptr;
    std::vector<Memory> memory;
    std::vector<Bound> bound;
    // Set from any thread; LiteRT asks after every operation.
    std::atomic<bool> interrupted{false};
};

// A tensor that Kotlin describes, and memory for it.
struct Array {
    std::string name;
    std::vector<int32_t> shape;
    int type;
    Memory memory;
};

Compiled & model_of(jlong handle) {
    if (handle == 0) {
        fail("the model is closed", "load the bundle again", edgeb::kClosed);
    }
    return *reinterpret_cast<Compiled *>(static_cast<intptr_t>(handle));
}

template <typename Function> void find(void * library, const char * name, Function & function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (function == nullptr) {
        fail(std::string("LiteRT's library has no ") + name, "package LiteRT 2.3 or a later 2.x",
             edgeb::kEngineMissing);
    }
}

// An environment; a folder that is given is where it looks for libraries of its tag's kind.
litert::Environment environment(const litert::Library & api, int tag, const std::string & folder) {
    std::vector<litert::EnvironmentOption> options(1);
    options[0].tag = litert::kMinLoggerSeverity;
    options[0].value.type = litert::kAnyInt;
    options[0].value.number = litert::kSeverityError;
    if (!folder.empty()) {
        options.push_back({});
        options[1].tag = tag;
        options[1].value.type = litert::kAnyString;
        options[1].value.text = folder.c_str();
    }
    litert::Environment made = nullptr;
    check(api.CreateEnvironment(static_cast<int>(options.size()), options.data(), &made),
          "LiteRT makes no environment", "close other apps");
    return made;
}

jlong open_runtime(JNIEnv * env, jbyteArray j_library, jbyteArray j_folder, jbyteArray j_npu_folder) {
    const std::string path = text_of(env, j_library);
    void * library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char * reason = dlerror();
        fail(std::string("LiteRT's library does not load: ") + (reason == nullptr ? path : reason),
             "package com.google.ai.edge.litert:litert for this device", edgeb::kEngineMissing);
    }
    auto runtime = std::make_unique<Runtime>();
#define EDGEB_LITERT_FIND(result, name, arguments) find(library, "LiteRt" #name, runtime->api.name);
    EDGEB_LITERT_FUNCTIONS(EDGEB_LITERT_FIND)
#undef EDGEB_LITERT_FIND
    runtime->environment = environment(runtime->api, litert::kRuntimeLibraryDir, text_of(env, j_folder));
    runtime->npu_folder = text_of(env, j_npu_folder);
    return static_cast<jlong>(reinterpret_cast<intptr_t>(runtime.release()));
}

// The NPU's environment, made when it is first asked for.
litert::Environment for_npu(Runtime & runtime) {
    if (runtime.npu_folder.empty()) {
        fail("the app packages no libraries for the NPU", "name their folder", edgeb::kEngineMissing);
    }
    const std::lock_guard<std::mutex> held(runtime.npu_lock);
    if (runtime.npu_environment == nullptr) {
        runtime.npu_environment = environment(runtime.api, litert::kDispatchLibraryDir, runtime.npu_folder);
    }
    return runtime.npu_environment;
}

// LiteRT takes an accelerator's options as text in TOML, which it frees. Without a cache XNNPACK would pack the weights
// for each signature; the cache is one in memory.
void set_cpu(const litert::Library & api, litert::Options options, int threads) {
    const std::string text =
        "num_threads = " + std::to_string(threads) + "\nweight_cache_file_path = \":memory\"\n";
    char * payload = strdup(text.c_str());
    if (payload == nullptr) {
        throw std::bad_alloc();
    }
    litert::OpaqueOptions made = nullptr;
    const litert::Status status = api.CreateOpaqueOptions("xnnpack", payload, std::free, &made);
    if (status != 0) {
        std::free(payload);
    }
    check(status, "LiteRT takes no options", edgeb::kReport);
    check(api.AddOpaqueOptions(options, made), "LiteRT takes no options", edgeb::kReport);
}

// Memory where LiteRT takes it, which the model frees.
void * aligned(Compiled & model, size_t bytes) {
    const size_t whole = (bytes + kBeyond + litert::kAlignment - 1) / litert::kAlignment;
    void * address = nullptr;
    if (posix_memalign(&address, litert::kAlignment, whole * litert::kAlignment) != 0) {
        throw std::bad_alloc();
    }
    std::memset(address, 0, whole * litert::kAlignment);
    model.memory.push_back({address, bytes});
    return address;
}

// A stretch of an open file: mapped where it begins as LiteRT wants memory to, else read.
void load_descriptor(Compiled & model, int number, size_t start, jlong length) {
    struct stat about = {};
    if (fstat(number, &about) != 0 || !S_ISREG(about.st_mode) || static_cast<size_t>(about.st_size) <= start) {
        fail("the open file has no model there", "pass a file, not a pipe", edgeb::kUnreadable);
    }
    const size_t size = length < 0 ? static_cast<size_t>(about.st_size) - start : static_cast<size_t>(length);
    if (start % litert::kAlignment == 0) {
        check(model.api.CreateModelFromFd(model.environment, number, start, size, &model.model),
              "LiteRT cannot load the file", kExport);
        return;
    }
    char * copy = static_cast<char *>(aligned(model, size));
    for (size_t done = 0; done < size;) {
        const ssize_t count = pread(number, copy + done, size - done, static_cast<off_t>(start + done));
        if (count <= 0) {
            fail("the open file ends inside the model", "copy or export it again", edgeb::kUnreadable);
        }
        done += static_cast<size_t>(count);
    }
    check(model.api.CreateModelFromBuffer(model.environment, copy, size, &model.model),
          "LiteRT cannot load the file", kExport);
}

// From a path, else from an open file, else from memory, which has to outlive the model.
void load(JNIEnv * env, Compiled & model, jbyteArray path, jobject descriptor, jlong start, jlong length,
          jobject content) {
    if (path != nullptr) {
        check(model.api.CreateModelFromFile(model.environment, text_of(env, path).c_str(), &model.model),
              "LiteRT cannot load the file", kExport);
    } else if (descriptor != nullptr) {
        load_descriptor(model, edgeb::number_of(env, descriptor), static_cast<size_t>(start), length);
    } else {
        auto [address, size] = edgeb::memory_of(env, content);
        if (reinterpret_cast<uintptr_t>(address) % litert::kAlignment != 0) {
            address = std::memcpy(aligned(model, size), address, size);
        }
        check(model.api.CreateModelFromBuffer(model.environment, address, size, &model.model),
              "LiteRT cannot load the buffer", kExport);
    }
}

jlong open_model(JNIEnv * env, jlong j_runtime, jbyteArray path, jobject descriptor, jlong start, jlong length,
                 jobject content, jint threads, jint accelerator) {
    if (j_runtime == 0 || threads < 1 || threads > kMaxThreads) {
        fail(std::to_string(threads) + " threads are impossible", "use 1 to 512 threads", edgeb::kInvalidArgument);
    }
    auto & runtime = *reinterpret_cast<Runtime *>(static_cast<intptr_t>(j_runtime));
    const litert::Library & api = runtime.api;
    if (accelerator < 0 || static_cast<size_t>(accelerator) >= std::size(kHardware)) {
        fail("there is no accelerator " + std::to_string(accelerator));
    }
    const Hardware & on = kHardware[accelerator];
    const bool on_cpu = on.flag == litert::kCpu;
    auto made = std::make_unique<Compiled>(api, on.flag == litert::kNpu ? for_npu(runtime) : runtime.environment);
    load(env, *made, path, descriptor, start, length, content);
    litert::Options options = nullptr;
    check(api.CreateOptions(&options), "LiteRT takes no options", edgeb::kReport);
    struct Owned {
        const litert::Library & api;
        litert::Options options;
        ~Owned() { api.DestroyOptions(options); }
    } owned{api, options};
    check(api.SetOptionsHardwareAccelerators(options, on.flag), "LiteRT takes no options", edgeb::kReport);
    if (on_cpu) {
        set_cpu(api, options, threads);
    }
    const char * hint = on_cpu ? kExport : "ask for the CPU, or allow the fallback";
    const char * code = on_cpu ? edgeb::kEngineFailed : edgeb::kAcceleratorRefused;
    const std::string name = on.name;
    check(api.CreateCompiledModel(made->environment, made->model, options, &made->compiled),
          on_cpu ? "LiteRT cannot compile the model" : "the " + name + " does not take the model", hint, code);
    if (on_cpu) {
        const auto asked = [](void * flag) { return static_cast<std::atomic<bool> *>(flag)->load(); };
        check(api.SetCompiledModelCancellationFunction(made->compiled, &made->interrupted, asked),
              "LiteRT cannot be interrupted", edgeb::kReport);
    } else {
        bool all = false;
        check(api.CompiledModelIsFullyAccelerated(made->compiled, &all), "LiteRT does not say what runs where", hint,
              code);
        if (!all) {
            fail("the " + name + " takes only a part of the model", hint, code);
        }
    }
    return static_cast<jlong>(reinterpret_cast<intptr_t>(made.release()));
}

jobject memory(JNIEnv * env, Compiled & model, jint count) {
    if (count < 1) {
        fail(std::to_string(count) + " bytes are impossible");
    }
    void * address = aligned(model, static_cast<size_t>(count));
    return env->NewDirectByteBuffer(address, count);
}

// The memory of a buffer, which `memory` must have made for this model.
Memory memory_of(JNIEnv * env, const Compiled & model, jobject buffer) {
    const void * address = buffer == nullptr ? nullptr : env->GetDirectBufferAddress(buffer);
    for (const Memory & one : model.memory) {
        if (one.address == address) {
            return one;
        }
    }
    fail("the memory is not the model's");
}

std::vector<Array> arrays(JNIEnv * env, const Compiled & model, jobjectArray j_names, jobjectArray j_shapes,
                          jbooleanArray j_whole, jobjectArray j_memory) {
    const jsize count = j_names == nullptr ? 0 : env->GetArrayLength(j_names);
    for (const jarray other : {static_cast<jarray>(j_shapes), static_cast<jarray>(j_whole),
                               static_cast<jarray>(j_memory)}) {
        if (other == nullptr || env->GetArrayLength(other) != count) {
            fail("the arrays of a signature do not fit together");
        }
    }
    std::vector<jboolean> whole(static_cast<size_t>(count));
    env->GetBooleanArrayRegion(j_whole, 0, count, whole.data());
    std::vector<Array> found;
    for (jsize i = 0; i < count; i++) {
        const auto name = static_cast<jbyteArray>(env->GetObjectArrayElement(j_names, i));
        const auto shape = static_cast<jintArray>(env->GetObjectArrayElement(j_shapes, i));
        const auto buffer = env->GetObjectArrayElement(j_memory, i);
        found.push_back({text_of(env, name), ints(env, shape), whole[i] ? litert::kInt32 : litert::kFloat32,
                         memory_of(env, model, buffer)});
        env->DeleteLocalRef(name);
        env->DeleteLocalRef(shape);
        env->DeleteLocalRef(buffer);
    }
    return found;
}

// A buffer over the memory of the array that a signature's tensor is called like.
litert::Buffer buffer_of(const Compiled & model, const std::string & signature, const char * name,
                         litert::Tensor tensor, const std::vector<Array> & given) {
    const std::string where = "signature '" + signature + "'";
    const auto array = std::find_if(given.begin(), given.end(), [&](const Array & one) { return one.name == name; });
    if (array == given.end()) {
        fail(where + " is not as the bundle says: it has " + name, kExport);
    }
    litert::TensorType type = {};
    check(model.api.GetRankedTensorType(tensor, &type), where + " has a tensor of no fixed shape", kExport);
    size_t bytes = sizeof(float);
    bool same = type.element_type == array->type && type.layout.rank == array->shape.size();
    for (size_t i = 0; same && i < array->shape.size(); i++) {
        same = array->shape[i] > 0 && type.layout.dimensions[i] == array->shape[i];
        bytes *= static_cast<size_t>(array->shape[i]);
    }
    if (!same || bytes != array->memory.bytes) {
        fail(where + " takes " + name + " of another shape or type than the bundle says", kExport);
    }
    litert::Buffer made = nullptr;
    check(model.api.CreateTensorBufferFromHostMemory(&type, array->memory.address, bytes, nullptr, &made),
          "LiteRT takes no memory of the host", "package LiteRT 2.3 or a later 2.x");
    return made;
}

jint bind(JNIEnv * env, Compiled & model, jbyteArray j_signature, jint input_count, jobjectArray names,
          jobjectArray shapes, jbooleanArray whole, jobjectArray memories) {
    const std::string wanted = text_of(env, j_signature);
    const std::vector<Array> all = arrays(env, model, names, shapes, whole, memories);
    if (input_count < 0 || static_cast<size_t>(input_count) > all.size()) {
        fail("the arrays of a signature do not fit together");
    }
    const std::vector<Array> given_in(all.begin(), all.begin() + input_count);
    const std::vector<Array> given_out(all.begin() + input_count, all.end());
    const litert::Library & api = model.api;
    size_t count = 0;
    check(api.GetNumModelSignatures(model.model, &count), "LiteRT lists no signatures", kExport);
    litert::Signature signature = nullptr;
    size_t index = 0;
    for (; index < count; index++) {
        const char * key = nullptr;
        check(api.GetModelSignature(model.model, index, &signature), "LiteRT lists no signatures", kExport);
        check(api.GetSignatureKey(signature, &key), "LiteRT lists no signatures", kExport);
        if (wanted == key) {
            break;
        }
    }
    if (index == count) {
        fail("the model has no signature '" + wanted + "'", kExport);
    }
    size_t inputs = 0;
    size_t outputs = 0;
    check(api.GetNumSignatureInputs(signature, &inputs), "LiteRT lists no inputs", kExport);
    check(api.GetNumSignatureOutputs(signature, &outputs), "LiteRT lists no outputs", kExport);
    if (outputs != given_out.size()) {
        fail("signature '" + wanted + "' is not as the bundle says: it gives " + std::to_string(outputs) + " tensors",
             kExport);
    }
    Bound made{index, {}, {}};
    try {
        const char * name = nullptr;
        litert::Tensor tensor = nullptr;
        for (size_t i = 0; i < inputs; i++) {
            check(api.GetSignatureInputName(signature, i, &name), "LiteRT lists no inputs", kExport);
            check(api.GetSignatureInputTensorByIndex(signature, i, &tensor), "LiteRT lists no inputs", kExport);
            made.inputs.push_back(buffer_of(model, wanted, name, tensor, given_in));
        }
        for (size_t i = 0; i < outputs; i++) {
            check(api.GetSignatureOutputName(signature, i, &name), "LiteRT lists no outputs", kExport);
            check(api.GetSignatureOutputTensorByIndex(signature, i, &tensor), "LiteRT lists no outputs", kExport);
            made.outputs.push_back(buffer_of(model, wanted, name, tensor, given_out));
        }
        model.bound.push_back(made);
    } catch (...) {
        model.release(made);
        throw;
    }
    return static_cast<jint>(model.bound.size() - 1);
}

jlong run(Compiled & model, jint number) {
    if (number < 0 || static_cast<size_t>(number) >= model.bound.size()) {
        fail("signature " + std::to_string(number) + " is not bound");
    }
    Bound & one = model.bound[static_cast<size_t>(number)];
    // A GPU and an NPU do not ask.
    if (model.interrupted) {
        fail("the call was cancelled", "call again", edgeb::kCancelled);
    }
    const auto started = std::chrono::steady_clock::now();
    const litert::Status status = model.api.RunCompiledModel(model.compiled, one.signature, one.inputs.size(),
                                                             one.inputs.data(), one.outputs.size(), one.outputs.data());
    const auto spent = std::chrono::steady_clock::now() - started;
    if (status != 0 && model.interrupted) {
        fail("the call was cancelled", "call again", edgeb::kCancelled);
    }
    check(status, "LiteRT could not evaluate the prompt", "load the bundle again");
    return static_cast<jlong>(std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count());
}

void read_rows(JNIEnv * env, const Compiled & model, jobject buffer, jint width, jintArray rows, jintArray starts,
               jintArray tokens, jfloatArray logits, jdoubleArray totals) {
    const Memory held = memory_of(env, model, buffer);
    const size_t row_bytes = static_cast<size_t>(width) * sizeof(float);
    if (width < 1 || held.bytes % row_bytes != 0) {
        fail("rows of " + std::to_string(width) + " logits are impossible");
    }
    const auto at = [&](int32_t row) {
        if (row < 0 || static_cast<size_t>(row) >= held.bytes / row_bytes) {
            fail("there are no logits of row " + std::to_string(row));
        }
        return static_cast<const float *>(held.address) + static_cast<size_t>(row) * static_cast<size_t>(width);
    };
    edgeb::read_rows(env, width, at, rows, starts, tokens, logits, totals);
}

} // namespace

// In the order of NativeLiteRt.kt.
#define EDGEB(result, name) extern "C" JNIEXPORT result JNICALL Java_dev_edgeb_runtime_NativeLiteRt_##name

EDGEB(jlong, openRuntime)(JNIEnv * env, jobject, jbyteArray library, jbyteArray folder, jbyteArray npu_folder) {
    return guarded(env, jlong{0}, [&] { return open_runtime(env, library, folder, npu_folder); });
}

EDGEB(jlong, open)
(JNIEnv * env, jobject, jlong runtime, jbyteArray path, jobject descriptor, jlong start, jlong length, jobject content,
 jint threads, jint accelerator) {
    return guarded(env, jlong{0}, [&] {
        return open_model(env, runtime, path, descriptor, start, length, content, threads, accelerator);
    });
}

EDGEB(void, interrupt)(JNIEnv * env, jobject, jlong handle, jboolean wanted) {
    guarded(env, 0, [&] {
        model_of(handle).interrupted = wanted == JNI_TRUE;
        return 0;
    });
}

EDGEB(void, free)(JNIEnv * env, jobject, jlong handle) {
    guarded(env, 0, [&] {
        delete &model_of(handle);
        return 0;
    });
}

EDGEB(jobject, memory)(JNIEnv * env, jobject, jlong handle, jint bytes) {
    return guarded(env, jobject{nullptr}, [&] { return memory(env, model_of(handle), bytes); });
}

EDGEB(jint, bind)
(JNIEnv * env, jobject, jlong handle, jbyteArray signature, jint inputs, jobjectArray names, jobjectArray shapes,
 jbooleanArray whole, jobjectArray memories) {
    return guarded(env, jint{-1}, [&] {
        return bind(env, model_of(handle), signature, inputs, names, shapes, whole, memories);
    });
}

EDGEB(jlong, run)(JNIEnv * env, jobject, jlong handle, jint bound) {
    return guarded(env, jlong{0}, [&] { return run(model_of(handle), bound); });
}

EDGEB(void, readRows)
(JNIEnv * env, jobject, jlong handle, jobject memory, jint width, jintArray rows, jintArray starts, jintArray tokens,
 jfloatArray logits, jdoubleArray totals) {
    guarded(env, 0, [&] {
        read_rows(env, model_of(handle), memory, width, rows, starts, tokens, logits, totals);
        return 0;
    });
}
