// llama.cpp for dev.edgeb.runtime.LlamaJni: tokens and bytes in, log-probabilities out. Uses llama.h only.
//
// Everything that comes from Java is checked before llama.cpp sees it, and every failure leaves as a
// dev.edgeb.core.EdgebException. llama_open.cpp opens models.

#include <algorithm>
#include <bitset>
#include <chrono>
#include <string>
#include <vector>

#include "llama_engine.h"

namespace {

using edgeb::bytes;
using edgeb::cuts;
using edgeb::fail;
using edgeb::guarded;
using edgeb::ints;
using edgeb::llama::Engine;
using edgeb::llama::engine_of;
using edgeb::llama::kMaxSequences;
using edgeb::llama::opened;

// What llama_decode returns when its abort callback has said so.
constexpr int32_t kAborted = 2;

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
        edgeb::llama::load_backends(env, folder);
        return 0;
    });
}

EDGEB(jlong, open)
(JNIEnv * env, jobject, jbyteArray path, jobject descriptor, jlong start, jobject content, jint n_ctx, jint n_seq,
 jint threads, jboolean exact_cache) {
    return guarded(env, jlong{0}, [&] {
        return edgeb::llama::open_model(env, path, descriptor, start, content, n_ctx, n_seq, threads, exact_cache);
    });
}

EDGEB(jlong, openVocabulary)(JNIEnv * env, jobject, jobject content) {
    return guarded(env, jlong{0}, [&] { return edgeb::llama::open_vocabulary(env, content); });
}

EDGEB(void, interrupt)(JNIEnv * env, jobject, jlong handle, jboolean wanted) {
    guarded(env, 0, [&] {
        engine_of(handle).interrupted = wanted == JNI_TRUE;
        return 0;
    });
}

EDGEB(void, free)(JNIEnv * env, jobject, jlong handle) {
    guarded(env, 0, [&] {
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
