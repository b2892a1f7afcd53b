// The log-sum-exp of a row of logits, written so that a compiler vectorizes it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace edgeb {

// exp(x) for x <= 0, to about 2e-7 of its value; written so that a compiler vectorizes it.
inline float exp_negative(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float turns = x * 1.44269504088896341f;
    // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the low bits.
    const float shifted = turns + 12582912.0f;
    const float whole = shifted - 12582912.0f;
    const float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * rest + 1.3981999507e-3f;
    p = p * rest + 8.3334519073e-3f;
    p = p * rest + 4.1665795894e-2f;
    p = p * rest + 1.6666665459e-1f;
    p = p * rest + 5.0000001201e-1f;
    p = p * rest * rest + rest + 1.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    const int32_t scale = static_cast<int32_t>((static_cast<uint32_t>(bits) - 0x4B400000u + 127u) << 23);
    float power;
    std::memcpy(&power, &scale, sizeof power);
    return p * power;
}

// Log of the sum of exp over a row: sums of stretches in float, and their sum in double.
inline double log_sum_exp(const float * row, int32_t count) {
    constexpr int32_t kLanes = 16;
    constexpr int32_t kStretch = 1024;
    // A lane each, since compilers keep the order of a sum and of a maximum of floats.
    float tops[kLanes];
    std::fill(tops, tops + kLanes, row[0]);
    const int32_t whole = count / kLanes * kLanes;
    for (int32_t i = 0; i < whole; i += kLanes) {
        for (int32_t k = 0; k < kLanes; k++) {
            tops[k] = row[i + k] > tops[k] ? row[i + k] : tops[k];
        }
    }
    float top = *std::max_element(tops, tops + kLanes);
    for (int32_t i = whole; i < count; i++) {
        top = row[i] > top ? row[i] : top;
    }
    double total = 0.0;
    float exps[kStretch];
    for (int32_t start = 0; start < count; start += kStretch) {
        const int32_t size = std::min(kStretch, count - start);
        for (int32_t i = 0; i < size; i++) {
            exps[i] = exp_negative(row[start + i] - top);
        }
        std::fill(exps + size, exps + kStretch, 0.0f);
        float lanes[kLanes] = {};
        for (int32_t i = 0; i < kStretch; i += kLanes) {
            for (int32_t k = 0; k < kLanes; k++) {
                lanes[k] += exps[i + k];
            }
        }
        for (const float lane : lanes) {
            total += lane;
        }
    }
    return top + std::log(total);
}

} // namespace edgeb
