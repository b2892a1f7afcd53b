// Opens models with llama.cpp: the code for this CPU, a file wherever it lies, the settings of its context.

#include "llama_engine.h"

#include <unistd.h>

#ifdef EDGEB_CPU_VARIANTS
#include <dlfcn.h>
#include <ggml-backend.h>
#endif
#ifdef __ANDROID__
#include <android/log.h>
#endif

#include <cstdio>
#include <new>
#include <utility>

namespace edgeb::llama {
namespace {

constexpr int kMaxThreads = GGML_MAX_N_THREADS;

#ifdef EDGEB_CPU_VARIANTS
// The library with code for the CPU's generation that serves it best, by names: inside an APK there is no folder to list.
void load_best_variant() {
    constexpr const char * kVariants[] = {EDGEB_CPU_VARIANTS};
    const char * best = nullptr;
    void * kept = nullptr;
    int most = 0;
    for (const char * name : kVariants) {
        void * library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        if (library == nullptr) {
            continue;
        }
        using Score = int (*)();
        const auto score = reinterpret_cast<Score>(dlsym(library, "ggml_backend_score"));
        const int found = score == nullptr ? 0 : score();
        if (found > most) {
            most = found;
            best = name;
            std::swap(kept, library);
        }
        if (library != nullptr) {
            dlclose(library);
        }
    }
    if (best != nullptr) {
        // Which finds it among what is loaded.
        ggml_backend_load(best);
        dlclose(kept);
    }
}
#endif

// Where the CPU's code lies in libraries of its own, one of them has to be found.
void check_cpu() {
    if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) {
        fail("llama.cpp found no library with code for this CPU",
             "package libggml-cpu-*.so beside libedgeb.so, or pass LlamaJni their folder",
             kEngineMissing);
    }
}

struct FileCloser {
    void operator()(FILE * file) const { std::fclose(file); }
};
using File = std::unique_ptr<FILE, FileCloser>;

// Where llama.cpp can map a GGUF within a file: it places tensors at their offsets there.
constexpr jlong kMappable = 32;

// A stream over a part of an open file, which stays open: it gets a number of its own.
File stream_of(JNIEnv * env, jobject descriptor, jlong start) {
    const int own = dup(number_of(env, descriptor));
    File file(own < 0 ? nullptr : fdopen(own, "rb"));
    if (file == nullptr) {
        if (own >= 0) {
            close(own);
        }
        fail("the open file cannot be read", "open it for reading", kUnreadable);
    }
    if (fseeko(file.get(), static_cast<off_t>(start), SEEK_SET) != 0) {
        fail("the open file has no places to go to", "pass a file, not a pipe", kUnreadable);
    }
    return file;
}

File stream_of(JNIEnv * env, jobject content) {
    const auto [address, size] = memory_of(env, content);
    File file(fmemopen(address, size, "rb"));
    if (file == nullptr) {
        throw std::bad_alloc();
    }
    return file;
}

// From a path, else from an open file, else from memory.
llama_model * load(JNIEnv * env, jbyteArray path, jobject descriptor, jlong start, jobject content,
                   llama_model_params options) {
    if (path != nullptr) {
        return llama_model_load_from_file(text_of(env, path).c_str(), options);
    }
    if (descriptor != nullptr) {
        const File file = stream_of(env, descriptor, start);
        if (start % kMappable != 0) {
            options.load_mode = LLAMA_LOAD_MODE_NONE;
        }
        return llama_model_load_from_file_ptr(file.get(), options);
    }
    const File file = stream_of(env, content);
    options.load_mode = LLAMA_LOAD_MODE_NONE;
    return llama_model_load_from_file_ptr(file.get(), options);
}

} // namespace

void to_logcat([[maybe_unused]] ggml_log_level level, [[maybe_unused]] const char * text) {
#ifdef __ANDROID__
    static thread_local std::string line;
    static thread_local android_LogPriority priority = ANDROID_LOG_INFO;
    switch (level) {
        case GGML_LOG_LEVEL_CONT: break;
        case GGML_LOG_LEVEL_DEBUG: return;
        case GGML_LOG_LEVEL_WARN: priority = ANDROID_LOG_WARN; break;
        case GGML_LOG_LEVEL_ERROR: priority = ANDROID_LOG_ERROR; break;
        default: priority = ANDROID_LOG_INFO;
    }
    line += text;
    if (!line.empty() && line.back() == '\n') {
        line.pop_back();
        __android_log_write(priority, "llama.cpp", line.c_str());
        line.clear();
    }
#endif
}

void load_backends(JNIEnv * env, jbyteArray folder) {
    // Sets the callback before anything is said.
    LogCapture log;
    if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) != nullptr) {
        return;
    }
    if (folder != nullptr) {
        ggml_backend_load_all_from_path(text_of(env, folder).c_str());
    }
#ifdef EDGEB_CPU_VARIANTS
    // Libraries that the APK holds uncompressed are in no folder.
    if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) {
        load_best_variant();
    }
#endif
    check_cpu();
}

jlong open_model(JNIEnv * env, jbyteArray path, jobject descriptor, jlong start, jobject content, jint n_ctx,
                 jint n_seq, jint threads, jboolean exact_cache) {
    if (n_ctx < 1 || n_seq < 1 || n_seq > kMaxSequences || n_seq > n_ctx || threads < 1 ||
        threads > kMaxThreads) {
        fail("impossible context settings", kReport, kInvalidArgument);
    }
    auto engine = std::make_unique<Engine>();
    LogCapture log;
    llama_backend_init();
    check_cpu();
    llama_model_params model_options = llama_model_default_params();
    model_options.n_gpu_layers = 0;
    engine->model.reset(load(env, path, descriptor, start, content, model_options));
    if (engine->model == nullptr) {
        fail("llama.cpp cannot load the file: " + log.reason(), "export the bundle again");
    }
    // The settings of edge_behavior/runtime/backends/llama.py; the reasons are there.
    llama_context_params options = llama_context_default_params();
    options.n_ctx = options.n_batch = static_cast<uint32_t>(n_ctx);
    options.n_ubatch = static_cast<uint32_t>(n_ctx < 512 ? n_ctx : 512);
    options.n_outputs_max = options.n_seq_max = static_cast<uint32_t>(n_seq);
    options.kv_unified = true;
    options.n_threads = options.n_threads_batch = threads;
    options.no_perf = true;
    options.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    options.abort_callback = [](void * flag) { return static_cast<std::atomic<bool> *>(flag)->load(); };
    options.abort_callback_data = &engine->interrupted;
    if (exact_cache) {
        options.type_k = options.type_v = GGML_TYPE_F32;
    }
    engine->context.reset(llama_init_from_model(engine->model.get(), options));
    if (engine->context == nullptr) {
        fail("llama.cpp cannot make a context: " + log.reason(), "close other apps or use a smaller bundle",
             kOutOfMemory);
    }
    engine->memory = llama_get_memory(engine->context.get());
    engine->vocab = llama_model_get_vocab(engine->model.get());
    if (engine->memory == nullptr || llama_model_has_encoder(engine->model.get()) ||
        llama_vocab_type(engine->vocab) == LLAMA_VOCAB_TYPE_NONE) {
        fail("the model does not continue texts", "use a bundle that edgeb exported");
    }
    engine->n_vocab = llama_vocab_n_tokens(engine->vocab);
    engine->n_ctx = n_ctx;
    engine->n_seq = n_seq;
    return static_cast<jlong>(reinterpret_cast<intptr_t>(engine.release()));
}

jlong open_vocabulary(JNIEnv * env, jobject content) {
    auto engine = std::make_unique<Engine>();
    LogCapture log;
    llama_model_params options = llama_model_default_params();
    options.vocab_only = true;
    engine->model.reset(load(env, nullptr, nullptr, 0, content, options));
    if (engine->model == nullptr) {
        fail("llama.cpp cannot load the vocabulary: " + log.reason(), "export the bundle again");
    }
    engine->vocab = llama_model_get_vocab(engine->model.get());
    if (llama_vocab_type(engine->vocab) == LLAMA_VOCAB_TYPE_NONE) {
        fail("the file has no vocabulary", "export the bundle again");
    }
    engine->n_vocab = llama_vocab_n_tokens(engine->vocab);
    return static_cast<jlong>(reinterpret_cast<intptr_t>(engine.release()));
}

} // namespace edgeb::llama
