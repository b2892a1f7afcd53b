// What the files of llama.cpp's JNI functions share: an open model, its handle, llama.cpp's log.
//
// A handle is the address of an Engine. There are no globals; the Kotlin side keeps two calls from one handle at a time,
// and those that capture llama.cpp's log (it has one callback for all) from running at once.
#pragma once

#include <jni.h>
#include <llama.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "jni_support.h"

namespace edgeb::llama {

constexpr int kMaxSequences = 256;

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

inline Engine & opened(jlong handle) {
    if (handle == 0) {
        fail("the model is closed", "load the bundle again", kClosed);
    }
    return *reinterpret_cast<Engine *>(static_cast<intptr_t>(handle));
}

inline Engine & engine_of(jlong handle) {
    Engine & engine = opened(handle);
    if (engine.context == nullptr) {
        fail("a vocabulary evaluates nothing");
    }
    return engine;
}

// llama.cpp's log, which comes in parts of lines, in Android's; elsewhere nowhere.
void to_logcat(ggml_log_level level, const char * text);

// Keeps the first error line that llama.cpp logs on this thread while it lives, for the message. llama.cpp has one
// callback for the process, and predictors work side by side: it is set once and for good, and asks the thread.
class LogCapture {
  public:
    LogCapture() : outer_(current_) {
        static std::once_flag once;
        std::call_once(once, [] { llama_log_set(collect, nullptr); });
        current_ = this;
    }
    ~LogCapture() { current_ = outer_; }
    LogCapture(const LogCapture &) = delete;
    LogCapture & operator=(const LogCapture &) = delete;

    std::string reason() const { return first_.empty() ? "no reason given" : first_; }

  private:
    static void collect(ggml_log_level level, const char * text, void *) {
        to_logcat(level, text);
        if (level != GGML_LOG_LEVEL_ERROR || current_ == nullptr || !current_->first_.empty()) {
            return;
        }
        auto & first = current_->first_;
        first = text;
        while (!first.empty() && first.back() == '\n') {
            first.pop_back();
        }
    }
    inline static thread_local LogCapture * current_ = nullptr;
    LogCapture * outer_;
    std::string first_;
};

// Find the code for this CPU where it lies in libraries of its own: in a folder, else by the names of what was built.
void load_backends(JNIEnv * env, jbyteArray folder);

// Open a model from a path, else from an open file, else from memory. Returns a handle.
jlong open_model(JNIEnv * env, jbyteArray path, jobject descriptor, jlong start, jobject content, jint n_ctx,
                 jint n_seq, jint threads, jboolean exact_cache);

// Open what tokenizes alone.
jlong open_vocabulary(JNIEnv * env, jobject content);

} // namespace edgeb::llama
