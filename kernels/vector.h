// Vectors of the machine's own width, and the functions of them that the kernels need; types of GCC and Clang.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

namespace jrt {

constexpr int WIDTH = VECTOR_BYTES / 4;

typedef float Vector __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t Integers __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));

inline Vector all(float value) { return value - Vector{}; }

// 2^t for t clamped to [-126, 126]: t = n + f with |f| <= 1/2, a polynomial of relative error 2e-9 for 2^f that is
// exactly 1 at 0, and n added to the exponent.
inline Vector exp2(Vector t) {
    const Vector lowest = all(-126.0f), highest = all(126.0f), magic = all(12582912.0f);  // 1.5 * 2^23
    t = t < lowest ? lowest : t;
    t = t > highest ? highest : t;
    const Vector shifted = t + magic;
    const Vector f = t - (shifted - magic);
    Vector p = all(0.00015353362f);
    p = p * f + 0.0013398875f;
    p = p * f + 0.00961843692f;
    p = p * f + 0.0555033237f;
    p = p * f + 0.240226477f;
    p = p * f + 0.693147182f;
    p = p * f + 1.0f;
    return (Vector)((Bits)p + ((Bits)shifted << 23));
}

constexpr float LOG2_E = 1.44269504f;

inline Vector exp(Vector x) { return exp2(x * LOG2_E); }

// log(1 + exp(x)) = max(x, 0) + log1p(e) with e = exp(-|x|) <= 1, and log1p(e) = 2 artanh(e / (2 + e)) as a series.
inline Vector softplus(Vector x) {
    const Vector zero = {};
    const Vector positive = x > zero ? x : zero;
    const Vector e = exp(x > zero ? -x : x);
    const Vector s = e / (2.0f + e), q = s * s;
    Vector p = all(1.0f / 15);
    p = p * q + 1.0f / 13;
    p = p * q + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    p = p * q + 1.0f;
    return positive + 2.0f * s * p;
}

inline Vector silu(Vector x) { return x / (1.0f + exp(-x)); }

// A (rows, channels or states, steps) tensor of float32; strides in elements. No data means that it is left out.
struct Sequence {
    const float* data;
    int64_t row, channel, step;
};

// Channels first .. first + lanes - 1 of a block as one vector per step; missing lanes are zero.
void gather(const Sequence& source, int64_t row, int64_t first, int lanes, int64_t begin, int count, Vector* target) {
    const float* data = source.data + row * source.row + first * source.channel + begin * source.step;
    if (lanes < WIDTH) std::memset(target, 0, count * sizeof(Vector));
    float* flat = reinterpret_cast<float*>(target);
    if (source.channel == 1) {
        for (int t = 0; t < count; ++t) std::memcpy(flat + t * WIDTH, data + t * source.step, lanes * sizeof(float));
        return;
    }
    for (int lane = 0; lane < lanes; ++lane)
        for (int t = 0; t < count; ++t) flat[t * WIDTH + lane] = data[lane * source.channel + t * source.step];
}

// Calls `run(first, last)` for parts of 0 .. tasks - 1, each in a thread of its own, the first in the caller's.
template <typename Run>
void in_threads(int64_t tasks, int64_t threads, const Run& run) {
    threads = std::max<int64_t>(1, std::min(threads, tasks));
    std::vector<std::thread> others;
    int64_t given = tasks / threads;
    try {
        for (int64_t i = 1; i < threads; ++i) {
            const int64_t last = tasks * (i + 1) / threads;
            others.emplace_back(std::cref(run), given, last);
            given = last;
        }
    } catch (const std::system_error&) {  // no more threads to be had: the caller does the rest
    }
    run(0, tasks / threads);
    if (given < tasks) run(given, tasks);
    for (std::thread& other : others) other.join();
}

}  // namespace jrt
