// The causal convolution in front of Mamba's scan: each channel with its own few weights, then SiLU.
//
// A task is one group of WIDTH channels of one row; it walks the sequence in blocks with the last K - 1 inputs of
// the block before in front of it. Built like scan.cpp.

#include "vector.h"

using namespace jrt;

struct Arguments {
    Sequence x;
    const float *weight, *bias, *initial_state;  // contiguous: (D, K), (D), (rows, D, K - 1)
    float *y, *state;                            // contiguous: (rows, T, D), (rows, D, K - 1)
    int64_t rows, channels, width, steps, silu, threads;
};

namespace {

constexpr int STEPS = 64;

// (lanes, count) numbers as `count` vectors over channels, and back.
void load_columns(const float* source, int64_t count, int lanes, Vector* target) {
    std::memset(target, 0, count * sizeof(Vector));
    float* flat = reinterpret_cast<float*>(target);
    for (int lane = 0; lane < lanes; ++lane)
        for (int64_t k = 0; k < count; ++k) flat[k * WIDTH + lane] = source[lane * count + k];
}

void store_columns(const Vector* source, int64_t count, int lanes, float* target) {
    const float* flat = reinterpret_cast<const float*>(source);
    for (int lane = 0; lane < lanes; ++lane)
        for (int64_t k = 0; k < count; ++k) target[lane * count + k] = flat[k * WIDTH + lane];
}

void run_tasks(const Arguments& a, int64_t begin, int64_t end) {
    const int64_t groups = (a.channels + WIDTH - 1) / WIDTH, past = a.width - 1;
    std::vector<Vector> weight(a.width), window(past + STEPS);
    for (int64_t task = begin; task < end; ++task) {
        const int64_t row = task / groups, first = task % groups * WIDTH, offset = (row * a.channels + first) * past;
        const int lanes = static_cast<int>(std::min<int64_t>(WIDTH, a.channels - first));
        load_columns(a.weight + first * a.width, a.width, lanes, weight.data());
        std::fill(window.begin(), window.begin() + past, Vector{});
        if (a.initial_state) load_columns(a.initial_state + offset, past, lanes, window.data());
        Vector bias = {};
        if (a.bias) std::memcpy(&bias, a.bias + first, lanes * sizeof(float));
        for (int64_t t = 0; t < a.steps; t += STEPS) {
            const int count = static_cast<int>(std::min<int64_t>(STEPS, a.steps - t));
            gather(a.x, row, first, lanes, t, count, window.data() + past);
            float* y = a.y + (row * a.steps + t) * a.channels + first;
            for (int i = 0; i < count; ++i, y += a.channels) {
                Vector sum = bias;
                for (int64_t k = 0; k < a.width; ++k) sum += weight[k] * window[i + k];
                if (a.silu) sum = silu(sum);
                std::memcpy(y, &sum, lanes * sizeof(float));
            }
            std::copy(window.begin() + count, window.begin() + count + past, window.begin());
        }
        store_columns(window.data(), past, lanes, a.state + offset);
    }
}

}  // namespace

extern "C" void jrt_causal_conv1d(const Arguments* arguments) {
    const Arguments& a = *arguments;
    const int64_t tasks = (a.channels + WIDTH - 1) / WIDTH * a.rows;
    in_threads(tasks, a.threads, [&a](int64_t first, int64_t last) { run_tasks(a, first, last); });
}
