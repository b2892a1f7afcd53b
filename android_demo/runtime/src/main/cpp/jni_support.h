// What both engines' JNI functions share: failures, arrays from Java, and reading rows of logits.
#pragma once

#include <jni.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "log_sum_exp.h"

namespace edgeb {

// Wanted in a message to the user: what to do about a failure that no input should cause.
inline constexpr const char * kReport = "report this as a bug";

// What is to be said to the user; thrown in C++, handed to Java by `guarded`.
struct Failure {
    std::string message;
    const char * hint;
};

[[noreturn]] inline void fail(const std::string & message, const char * hint = kReport) {
    throw Failure{message, hint};
}

inline void throw_java(JNIEnv * env, const Failure & failure) {
    if (env->ExceptionCheck()) {
        return;
    }
    // NewStringUTF takes Java's own encoding only, and an engine may quote anything.
    std::string text = failure.message;
    for (char & c : text) {
        if (c < ' ' || c > '~') {
            c = '?';
        }
    }
    jclass type = env->FindClass("dev/edgeb/core/EdgebException");
    if (type == nullptr) {
        return;
    }
    jmethodID make = env->GetMethodID(type, "<init>", "(Ljava/lang/String;Ljava/lang/String;)V");
    jstring message = make == nullptr ? nullptr : env->NewStringUTF(text.c_str());
    jstring hint = message == nullptr ? nullptr : env->NewStringUTF(failure.hint);
    jobject made = hint == nullptr ? nullptr : env->NewObject(type, make, message, hint);
    if (made != nullptr) {
        env->Throw(static_cast<jthrowable>(made));
    }
}

// Runs `work`; a C++ exception becomes a Java one, and then `otherwise` is returned.
template <typename Result, typename Work> Result guarded(JNIEnv * env, Result otherwise, Work work) {
    try {
        return work();
    } catch (const Failure & failure) {
        throw_java(env, failure);
    } catch (const std::bad_alloc &) {
        throw_java(env, {"out of memory", "close other apps or use a smaller bundle"});
    } catch (const std::exception & error) {
        throw_java(env, {std::string("the engine failed: ") + error.what(), kReport});
    } catch (...) {
        throw_java(env, {"the engine failed without a reason", kReport});
    }
    return otherwise;
}

inline std::vector<int32_t> ints(JNIEnv * env, jintArray array) {
    static_assert(sizeof(jint) == sizeof(int32_t), "jint has 32 bits");
    if (array == nullptr) {
        fail("an array is missing");
    }
    std::vector<int32_t> values(static_cast<size_t>(env->GetArrayLength(array)));
    env->GetIntArrayRegion(array, 0, static_cast<jsize>(values.size()), reinterpret_cast<jint *>(values.data()));
    return values;
}

inline std::vector<uint8_t> bytes(JNIEnv * env, jbyteArray array) {
    if (array == nullptr) {
        fail("an array is missing");
    }
    std::vector<uint8_t> values(static_cast<size_t>(env->GetArrayLength(array)));
    env->GetByteArrayRegion(array, 0, static_cast<jsize>(values.size()), reinterpret_cast<jbyte *>(values.data()));
    return values;
}

inline std::string text_of(JNIEnv * env, jbyteArray utf8) {
    const std::vector<uint8_t> raw = bytes(env, utf8);
    return std::string(raw.begin(), raw.end());
}

// Whether `starts` cuts `size` values into `count` stretches.
inline bool cuts(const std::vector<int32_t> & starts, size_t count, size_t size) {
    return starts.size() == count + 1 && starts.front() == 0 && static_cast<size_t>(starts.back()) == size &&
           std::is_sorted(starts.begin(), starts.end());
}

// Reads, from each of `rows`, the logits of some tokens and, where `j_totals` is given, the row's log-sum-exp.
//
// `row_at` gives a row's address, or fails. Tokens of row i are `tokens[starts[i]]` until `starts[i + 1]`.
template <typename RowAt>
void read_rows(JNIEnv * env, int32_t width, RowAt row_at, jintArray j_rows, jintArray j_starts, jintArray j_tokens,
               jfloatArray j_logits, jdoubleArray j_totals) {
    const std::vector<int32_t> rows = ints(env, j_rows);
    const std::vector<int32_t> starts = ints(env, j_starts);
    const std::vector<int32_t> tokens = ints(env, j_tokens);
    const bool fits = cuts(starts, rows.size(), tokens.size()) && j_logits != nullptr &&
                      static_cast<size_t>(env->GetArrayLength(j_logits)) == tokens.size() &&
                      (j_totals == nullptr || static_cast<size_t>(env->GetArrayLength(j_totals)) == rows.size());
    if (!fits) {
        fail("the arrays of a reading do not fit together");
    }
    std::vector<float> logits(tokens.size());
    std::vector<double> totals(j_totals == nullptr ? 0 : rows.size());
    for (size_t i = 0; i < rows.size(); i++) {
        const float * row = row_at(rows[i]);
        for (int32_t k = starts[i]; k < starts[i + 1]; k++) {
            if (tokens[k] < 0 || tokens[k] >= width) {
                fail("token " + std::to_string(tokens[k]) + " does not exist");
            }
            logits[k] = row[tokens[k]];
        }
        if (!totals.empty()) {
            totals[i] = log_sum_exp(row, width);
        }
    }
    env->SetFloatArrayRegion(j_logits, 0, static_cast<jsize>(logits.size()), logits.data());
    if (!totals.empty()) {
        env->SetDoubleArrayRegion(j_totals, 0, static_cast<jsize>(totals.size()), totals.data());
    }
}

} // namespace edgeb
