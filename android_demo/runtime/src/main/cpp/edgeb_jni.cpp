// llama.cpp for dev.edgeb.runtime.LlamaJni: tokens and bytes in, log-probabilities out. Uses llama.h only.
//
// A handle is the address of an Engine. Everything that comes from Java is checked before llama.cpp sees it, and every
// failure leaves as a dev.edgeb.core.EdgebException. There are no globals; the Kotlin side keeps two calls from one
// handle at a time, and those that capture llama.cpp's log (it has one callback for all) from running at once.

#include <jni.h>
#include <llama.h>

#include <unistd.h>

#ifdef EDGEB_CPU_VARIANTS
#include <dlfcn.h>
#include <ggml-backend.h>
#endif
#ifdef __ANDROID__
#include <android/log.h>
#endif

#include <algorithm>
#include <atomic>
#include <bitset>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "jni_support.h"

namespace {

using edgeb::bytes;
using edgeb::cuts;
using edgeb::fail;
using edgeb::guarded;
using edgeb::ints;
using edgeb::text_of;

constexpr int kMaxSequences = 256;
constexpr int kMaxThreads = GGML_MAX_N_THREADS;
// What llama_decode returns when its abort callback has said so.
constexpr int32_t kAborted = 2;

struct ModelDeleter {
    void operator()(llama_model * model) const { llama_model_free(model); }
};
struct ContextDeleter {
    void operator()(llama_context * context) const { llama_free(context); }
};

struct Engine {
    std::unique_ptr<llama_model, ModelDeleter> model;
    std::unique_ptr<llama_context, ContextDeleter> context;
    llama_memory_t memory = nullptr;
    const llama_vocab * vocab = nullptr;
    int32_t n_vocab = 0;
    // Positions of the cache, and most tokens of a batch.
    int32_t n_ctx = 0;
    // Sequences of the cache, and most rows of a batch.
    int32_t n_seq = 0;
    // Which tokens of the last batch have logits.
    std::vector<int8_t> has_row;
    // Set from any thread; llama.cpp asks between two steps of an evaluation.
    std::atomic<bool> interrupted{false};
};

Engine & opened(jlong handle) {
    if (handle == 0) {
        fail("the model is closed", "load the bundle again", edgeb::kClosed);
    }
    return *reinterpret_cast<Engine *>(static_cast<intptr_t>(handle));
}

Engine & engine_of(jlong handle) {
    Engine & engine = opened(handle);
    if (engine.context == nullptr) {
        fail("a vocabulary evaluates nothing");
    }
    return engine;
}

// llama.cpp's log, which comes in parts of lines, in Android's; elsewhere nowhere.
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

// Keeps llama.cpp's log off stderr while it lives, and its first error line for the message.
class LogCapture {
  public:
    LogCapture() {
        llama_log_get(&before_, &data_);
        llama_log_set(collect, this);
    }
    ~LogCapture() { llama_log_set(before_, data_); }
    LogCapture(const LogCapture &) = delete;
    LogCapture & operator=(const LogCapture &) = delete;

    std::string reason() const { return first_.empty() ? "no reason given" : first_; }

  private:
    static void collect(ggml_log_level level, const char * text, void * self) {
        to_logcat(level, text);
        auto & first = static_cast<LogCapture *>(self)->first_;
        if (level == GGML_LOG_LEVEL_ERROR && first.empty()) {
            first = text;
            while (!first.empty() && first.back() == '\n') {
                first.pop_back();
            }
        }
    }
    ggml_log_callback before_ = nullptr;
    void * data_ = nullptr;
    std::string first_;
};

int32_t file_type(const llama_model * model) {
    char text[16];
    const int32_t size = llama_model_meta_val_str(model, "general.file_type", text, sizeof text);
    return size > 0 ? static_cast<int32_t>(std::strtol(text, nullptr, 10)) : -1;
}

void check_sequence(const Engine & engine, int32_t sequence) {
    if (sequence < 0 || sequence >= engine.n_seq) {
        fail("sequence " + std::to_string(sequence) + " does not exist");
    }
}

#ifdef EDGEB_CPU_VARIANTS
// The library with code for the CPU's generation that serves it best, by names: inside an APK there is no folder to list.
void load_best_variant() {
    constexpr const char * kVariants[] = {EDGEB_CPU_VARIANTS};
    const char * best = nullptr;
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
        }
        dlclose(library);
    }
    if (best != nullptr) {
        ggml_backend_load(best);
    }
}
#endif

// Where the CPU's code lies in libraries of its own, one of them has to be found.
void check_cpu() {
    if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) {
        fail("llama.cpp found no library with code for this CPU",
             "package libggml-cpu-*.so beside libedgeb.so, or pass LlamaJni their folder",
             edgeb::kEngineMissing);
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
    const int own = dup(edgeb::number_of(env, descriptor));
    File file(own < 0 ? nullptr : fdopen(own, "rb"));
    if (file == nullptr) {
        if (own >= 0) {
            close(own);
        }
        fail("the open file cannot be read", "open it for reading", edgeb::kUnreadable);
    }
    if (fseeko(file.get(), static_cast<off_t>(start), SEEK_SET) != 0) {
        fail("the open file has no places to go to", "pass a file, not a pipe", edgeb::kUnreadable);
    }
    return file;
}

File stream_of(JNIEnv * env, jobject content) {
    const auto [address, size] = edgeb::memory_of(env, content);
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

jlong open_model(JNIEnv * env, jbyteArray path, jobject descriptor, jlong start, jobject content, jint n_ctx,
                 jint n_seq, jint threads, jboolean exact_cache) {
    if (n_ctx < 1 || n_seq < 1 || n_seq > kMaxSequences || n_seq > n_ctx || threads < 1 ||
        threads > kMaxThreads) {
        fail("impossible context settings", edgeb::kReport, edgeb::kInvalidArgument);
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
             edgeb::kOutOfMemory);
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

jintArray tokenize(JNIEnv * env, const Engine & engine, jbyteArray utf8) {
    const std::vector<uint8_t> raw = bytes(env, utf8);
    // A token is at least one byte, and a space may be put before the first.
    std::vector<llama_token> ids(raw.size() + 2);
    const int32_t count =
        llama_tokenize(engine.vocab, reinterpret_cast<const char *>(raw.data()), static_cast<int32_t>(raw.size()),
                       ids.data(), static_cast<int32_t>(ids.size()), /*add_special=*/false, /*parse_special=*/false);
    if (count < 0) {
        fail("llama.cpp cannot tokenize a text of " + std::to_string(raw.size()) + " bytes");
    }
    jintArray result = env->NewIntArray(count);
    if (result != nullptr) {
        env->SetIntArrayRegion(result, 0, count, reinterpret_cast<const jint *>(ids.data()));
    }
    return result;
}

jlong decode(JNIEnv * env, Engine & engine, jintArray j_tokens, jintArray j_positions, jintArray j_starts,
             jintArray j_sequences, jbooleanArray j_wants) {
    std::vector<int32_t> tokens = ints(env, j_tokens);
    std::vector<int32_t> positions = ints(env, j_positions);
    std::vector<int32_t> starts = ints(env, j_starts);
    std::vector<int32_t> sequences = ints(env, j_sequences);
    const size_t count = tokens.size();
    if (j_wants == nullptr || static_cast<size_t>(env->GetArrayLength(j_wants)) != count || positions.size() != count ||
        !cuts(starts, count, sequences.size()) || count == 0 || count > static_cast<size_t>(engine.n_ctx)) {
        fail("the arrays of a batch do not fit together");
    }
    std::vector<int8_t> wants(count);
    static_assert(sizeof(jboolean) == sizeof(int8_t), "jboolean has 8 bits");
    env->GetBooleanArrayRegion(j_wants, 0, static_cast<jsize>(count), reinterpret_cast<jboolean *>(wants.data()));
    std::vector<int32_t> sequence_counts(count);
    std::vector<llama_seq_id *> sequence_lists(count);
    if (std::count_if(wants.begin(), wants.end(), [](int8_t want) { return want != 0; }) > engine.n_seq) {
        fail("a batch asks for more than " + std::to_string(engine.n_seq) + " rows, which is impossible");
    }
    for (size_t i = 0; i < count; i++) {
        sequence_counts[i] = starts[i + 1] - starts[i];
        if (sequence_counts[i] < 1 || tokens[i] < 0 || tokens[i] >= engine.n_vocab || positions[i] < 0 ||
            positions[i] >= engine.n_ctx) {
            fail("token " + std::to_string(i) + " of a batch is impossible");
        }
        sequence_lists[i] = sequences.data() + starts[i];
        std::bitset<kMaxSequences> seen;
        for (int32_t k = starts[i]; k < starts[i + 1]; k++) {
            check_sequence(engine, sequences[k]);
            // llama.cpp would count the token twice, and never be rid of it.
            if (seen[sequences[k]]) {
                fail("token " + std::to_string(i) + " of a batch is impossible: it is in a sequence twice");
            }
            seen.set(sequences[k]);
        }
    }
    llama_batch batch = {};
    batch.n_tokens = static_cast<int32_t>(count);
    batch.token = tokens.data();
    batch.pos = positions.data();
    batch.n_seq_id = sequence_counts.data();
    batch.seq_id = sequence_lists.data();
    batch.logits = wants.data();
    engine.has_row.clear();
    const auto started = std::chrono::steady_clock::now();
    const int32_t status = llama_decode(engine.context.get(), batch);
    llama_synchronize(engine.context.get());
    const auto spent = std::chrono::steady_clock::now() - started;
    if (status == kAborted) {
        fail("the call was cancelled", "call again", edgeb::kCancelled);
    }
    if (status != 0) {
        fail("llama.cpp could not evaluate the prompt (status " + std::to_string(status) + ")",
             "load the bundle again");
    }
    engine.has_row = std::move(wants);
    return static_cast<jlong>(std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count());
}

// Where a row of the last batch lies.
const float * row_at(const Engine & engine, int32_t row) {
    if (row < 0 || static_cast<size_t>(row) >= engine.has_row.size() || !engine.has_row[row]) {
        fail("the last batch has no logits for token " + std::to_string(row));
    }
    const float * found = llama_get_logits_ith(engine.context.get(), row);
    if (found == nullptr) {
        fail("llama.cpp gave no logits");
    }
    return found;
}

jbyteArray save_sequence(JNIEnv * env, const Engine & engine, jint sequence) {
    check_sequence(engine, sequence);
    std::vector<uint8_t> state(llama_state_seq_get_size(engine.context.get(), sequence));
    if (state.size() > INT32_MAX) {
        fail("the cache has " + std::to_string(state.size()) + " bytes, more than Java holds", "use a smaller context");
    }
    const size_t written = llama_state_seq_get_data(engine.context.get(), state.data(), state.size(), sequence);
    if (written == 0 || written != state.size()) {
        fail("llama.cpp cannot save the cache");
    }
    jbyteArray result = env->NewByteArray(static_cast<jsize>(written));
    if (result != nullptr) {
        env->SetByteArrayRegion(result, 0, static_cast<jsize>(written), reinterpret_cast<const jbyte *>(state.data()));
    }
    return result;
}

jboolean load_sequence(JNIEnv * env, const Engine & engine, jint sequence, jbyteArray j_state) {
    check_sequence(engine, sequence);
    const std::vector<uint8_t> state = bytes(env, j_state);
    LogCapture log;
    const size_t read = llama_state_seq_set_data(engine.context.get(), state.data(), state.size(), sequence);
    // llama.cpp takes positions as they come.
    if (read == 0 || read != state.size() || llama_memory_seq_pos_min(engine.memory, sequence) < 0 ||
        llama_memory_seq_pos_max(engine.memory, sequence) >= engine.n_ctx) {
        llama_memory_clear(engine.memory, true);
        return JNI_FALSE;
    }
    return JNI_TRUE;
}

} // namespace

// In the order of NativeLlama.kt.
#define EDGEB(result, name) extern "C" JNIEXPORT result JNICALL Java_dev_edgeb_runtime_NativeLlama_##name

EDGEB(void, loadBackends)(JNIEnv * env, jobject, jbyteArray folder) {
    guarded(env, 0, [&] {
#ifdef __ANDROID__
        // What is said outside of a capture.
        llama_log_set([](ggml_log_level level, const char * text, void *) { to_logcat(level, text); }, nullptr);
#endif
        LogCapture log;
        if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) != nullptr) {
            return 0;
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
        return 0;
    });
}

EDGEB(jlong, open)
(JNIEnv * env, jobject, jbyteArray path, jobject descriptor, jlong start, jobject content, jint n_ctx, jint n_seq,
 jint threads, jboolean exact_cache) {
    return guarded(env, jlong{0}, [&] {
        return open_model(env, path, descriptor, start, content, n_ctx, n_seq, threads, exact_cache);
    });
}

EDGEB(jlong, openVocabulary)(JNIEnv * env, jobject, jobject content) {
    return guarded(env, jlong{0}, [&] { return open_vocabulary(env, content); });
}

EDGEB(void, interrupt)(JNIEnv * env, jobject, jlong handle, jboolean wanted) {
    guarded(env, 0, [&] {
        engine_of(handle).interrupted = wanted == JNI_TRUE;
        return 0;
    });
}

EDGEB(void, free)(JNIEnv * env, jobject, jlong handle) {
    guarded(env, 0, [&] {
        LogCapture log;
        delete &opened(handle);
        return 0;
    });
}

EDGEB(jint, vocabularySize)(JNIEnv * env, jobject, jlong handle) {
    return guarded(env, jint{0}, [&] { return jint{opened(handle).n_vocab}; });
}

EDGEB(jint, fileType)(JNIEnv * env, jobject, jlong handle) {
    return guarded(env, jint{0}, [&] { return jint{file_type(engine_of(handle).model.get())}; });
}

EDGEB(jintArray, tokenize)(JNIEnv * env, jobject, jlong handle, jbyteArray utf8) {
    return guarded(env, jintArray{nullptr}, [&] { return tokenize(env, opened(handle), utf8); });
}

EDGEB(jlong, decode)
(JNIEnv * env, jobject, jlong handle, jintArray tokens, jintArray positions, jintArray starts, jintArray sequences,
 jbooleanArray wants) {
    return guarded(env, jlong{0},
                   [&] { return decode(env, engine_of(handle), tokens, positions, starts, sequences, wants); });
}

EDGEB(void, readRows)
(JNIEnv * env, jobject, jlong handle, jintArray rows, jintArray starts, jintArray tokens, jfloatArray logits,
 jdoubleArray totals) {
    guarded(env, 0, [&] {
        const Engine & engine = engine_of(handle);
        const auto at = [&](int32_t row) { return row_at(engine, row); };
        edgeb::read_rows(env, engine.n_vocab, at, rows, starts, tokens, logits, totals);
        return 0;
    });
}

EDGEB(void, copySequence)(JNIEnv * env, jobject, jlong handle, jint from, jint to, jint start, jint end) {
    guarded(env, 0, [&] {
        Engine & engine = engine_of(handle);
        check_sequence(engine, from);
        check_sequence(engine, to);
        // llama.cpp would count cells that `to` holds already twice, and never be rid of them.
        if (from != to && llama_memory_seq_pos_max(engine.memory, to) >= std::max(start, 0)) {
            fail("sequence " + std::to_string(to) + " is not free: the copy is impossible");
        }
        llama_memory_seq_cp(engine.memory, from, to, start, end);
        return 0;
    });
}

EDGEB(void, removeSequence)(JNIEnv * env, jobject, jlong handle, jint sequence, jint start, jint end) {
    guarded(env, 0, [&] {
        Engine & engine = engine_of(handle);
        check_sequence(engine, sequence);
        if (!llama_memory_seq_rm(engine.memory, sequence, start, end)) {
            fail("llama.cpp cannot drop a part of the cache");
        }
        return 0;
    });
}

EDGEB(void, shiftSequence)(JNIEnv * env, jobject, jlong handle, jint sequence, jint start, jint end, jint by) {
    guarded(env, 0, [&] {
        Engine & engine = engine_of(handle);
        check_sequence(engine, sequence);
        if (!llama_memory_can_shift(engine.memory)) {
            fail("llama.cpp cannot shift this model's cache");
        }
        if (by < -engine.n_ctx || by >= engine.n_ctx - llama_memory_seq_pos_max(engine.memory, sequence)) {
            fail("a shift by " + std::to_string(by) + " is impossible");
        }
        llama_memory_seq_add(engine.memory, sequence, start, end, by);
        return 0;
    });
}

EDGEB(jint, lastPosition)(JNIEnv * env, jobject, jlong handle, jint sequence) {
    return guarded(env, jint{-1}, [&] {
        Engine & engine = engine_of(handle);
        check_sequence(engine, sequence);
        return jint{llama_memory_seq_pos_max(engine.memory, sequence)};
    });
}

EDGEB(void, clear)(JNIEnv * env, jobject, jlong handle) {
    guarded(env, 0, [&] {
        llama_memory_clear(engine_of(handle).memory, true);
        return 0;
    });
}

EDGEB(jbyteArray, saveSequence)(JNIEnv * env, jobject, jlong handle, jint sequence) {
    return guarded(env, jbyteArray{nullptr}, [&] { return save_sequence(env, engine_of(handle), sequence); });
}

EDGEB(jboolean, loadSequence)(JNIEnv * env, jobject, jlong handle, jint sequence, jbyteArray state) {
    return guarded(env, jboolean{JNI_FALSE}, [&] { return load_sequence(env, engine_of(handle), sequence, state); });
}

EDGEB(jbyteArray, version)(JNIEnv * env, jobject) {
    return guarded(env, jbyteArray{nullptr}, [&]() -> jbyteArray {
        static constexpr char kVersion[] = "llama.cpp " EDGEB_LLAMA_COMMIT;
        jbyteArray result = env->NewByteArray(sizeof kVersion - 1);
        if (result != nullptr) {
            env->SetByteArrayRegion(result, 0, sizeof kVersion - 1, reinterpret_cast<const jbyte *>(kVersion));
        }
        return result;
    });
}
