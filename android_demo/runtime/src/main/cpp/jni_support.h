// What both engines' JNI functions share: failures, arrays and open files from Java, and reading rows of logits.
#pragma once

#include <dlfcn.h>
#include <jni.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "log_sum_exp.h"

namespace edgeb {

// Wanted in a message to the user: what to do about a failure that no input should cause.
inline constexpr const char * kReport = "report this as a bug";

// Names of dev.edgeb.core.ErrorCode.
inline constexpr const char * kEngineFailed = "ENGINE_FAILED";
inline constexpr const char * kEngineMissing = "ENGINE_MISSING";
inline constexpr const char * kAcceleratorRefused = "ACCELERATOR_REFUSED";
inline constexpr const char * kInvalidArgument = "INVALID_ARGUMENT";
inline constexpr const char * kOutOfMemory = "OUT_OF_MEMORY";
inline constexpr const char * kUnreadable = "UNREADABLE";
inline constexpr const char * kClosed = "CLOSED";
inline constexpr const char * kCancelled = "CANCELLED";

// What is to be said to the user; thrown in C++, handed to Java by `guarded`.
struct Failure {
    std::string message;
    const char * hint;
    const char * code = kEngineFailed;
};

[[noreturn]] inline void fail(const std::string & message, const char * hint = kReport,
                              const char * code = kEngineFailed) {
    throw Failure{message, hint, code};
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
    jmethodID make = env->GetMethodID(type, "<init>",
                                      "(Ljava/lang/String;Ljava/lang/String;Ldev/edgeb/core/ErrorCode;)V");
    jclass codes = make == nullptr ? nullptr : env->FindClass("dev/edgeb/core/ErrorCode");
    jfieldID field =
        codes == nullptr ? nullptr : env->GetStaticFieldID(codes, failure.code, "Ldev/edgeb/core/ErrorCode;");
    jobject code = field == nullptr ? nullptr : env->GetStaticObjectField(codes, field);
    jstring message = code == nullptr ? nullptr : env->NewStringUTF(text.c_str());
    jstring hint = message == nullptr ? nullptr : env->NewStringUTF(failure.hint);
    jobject made = hint == nullptr ? nullptr : env->NewObject(type, make, message, hint, code);
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
        throw_java(env, {"out of memory", "close other apps or use a smaller bundle", kOutOfMemory});
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

// The number of an open file. It stays Java's.
inline int number_of(JNIEnv * env, jobject descriptor) {
    if (descriptor == nullptr) {
        fail("an open file is missing");
    }
#ifdef __ANDROID__
    // Public from API 31 on; before, it reads the field that is read below.
    using Get = int (*)(JNIEnv *, jobject);
    void * helper = dlopen("libnativehelper.so", RTLD_NOW);
    const auto get = reinterpret_cast<Get>(helper == nullptr ? nullptr : dlsym(helper, "AFileDescriptor_getFd"));
    if (get != nullptr) {
        return get(env, descriptor);
    }
    constexpr const char * kField = "descriptor";
#else
    constexpr const char * kField = "fd";
#endif
    jfieldID field = env->GetFieldID(env->GetObjectClass(descriptor), kField, "I");
    if (field == nullptr) {
        env->ExceptionClear();
        fail("this system does not say which file is open", "copy the bundle to a file of its own", kUnreadable);
    }
    const int number = env->GetIntField(descriptor, field);
    if (number < 0) {
        fail("the file is closed", "open it again", kUnreadable);
    }
    return number;
}

// Direct memory and its size.
inline std::pair<void *, size_t> memory_of(JNIEnv * env, jobject buffer) {
    void * address = buffer == nullptr ? nullptr : env->GetDirectBufferAddress(buffer);
    const jlong size = address == nullptr ? 0 : env->GetDirectBufferCapacity(buffer);
    if (size < 1) {
        fail("the buffer is no direct memory, or empty", "pass a direct or a mapped buffer", kInvalidArgument);
    }
    return {address, static_cast<size_t>(size)};
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
