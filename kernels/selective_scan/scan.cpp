// The selective scan on a CPU: one pass over the sequence, states in registers, channels in the lanes of a vector.
//
// Built by compiled.py with the system's compiler and called through ctypes, so it includes nothing of torch and depends
// on no OpenMP. Vector types are those of GCC and Clang; their width is the machine's.
//
// A task is one group of WIDTH channels of one row. It walks the sequence in blocks of STEPS: the inputs of a block are
// brought into vectors (softplus and mask applied), then each tile of TILE states runs over the block with its states in
// registers, then the block's outputs get the skip connection and the gate.

#include "vector.h"

using namespace jrt;

namespace {

constexpr int TILE = WIDTH == 8 ? 8 : 16;  // AVX2 has 16 registers, the others 32
constexpr int STEPS = 64;

}  // namespace

struct Arguments {
    Sequence u, delta, B, C, z;
    const float *A, *D, *delta_bias, *initial_state, *mask;  // contiguous: (D, N), (D), (D), (rows, D, N), (rows, T)
    float *y, *state;                                        // contiguous: (rows, T, D), (rows, D, N)
    int64_t rows, channels, states, steps, threads;
};

namespace {

// `count` values of a (channels, states) array as vectors over channels, one per state.
void load_states(const float* source, int64_t states, int lanes, Vector* target) {
    std::memset(target, 0, states * sizeof(Vector));
    float* flat = reinterpret_cast<float*>(target);
    for (int lane = 0; lane < lanes; ++lane)
        for (int64_t n = 0; n < states; ++n) flat[n * WIDTH + lane] = source[lane * states + n];
}

template <int N>
void run_tile(const Sequence& B, const Sequence& C, int64_t row, int64_t begin, int count, int64_t first,
              const Vector* decay_rate, const Vector* step, const Vector* written, Vector* state, Vector* y) {
    Vector h[N], rate[N];
    for (int n = 0; n < N; ++n) h[n] = state[first + n], rate[n] = decay_rate[first + n];
    const float* b = B.data + row * B.row + begin * B.step + first * B.channel;
    const float* c = C.data + row * C.row + begin * C.step + first * C.channel;
    for (int t = 0; t < count; ++t, b += B.step, c += C.step) {
        const Vector dt = step[t], x = written[t];
        Vector sum = y[t];
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) {
            h[n] = exp2(dt * rate[n]) * h[n] + x * b[n * B.channel];
            sum += h[n] * c[n * C.channel];
        }
        y[t] = sum;
    }
    for (int n = 0; n < N; ++n) state[first + n] = h[n];
}

struct Buffers {
    std::vector<Vector> rate, state;
    Vector u[STEPS], step[STEPS], written[STEPS], y[STEPS], gate[STEPS];
    explicit Buffers(int64_t states) : rate(states), state(states) {}
};

void run_block(const Arguments& a, int64_t row, int64_t first, int lanes, int64_t begin, Buffers& buffers) {
    const int count = static_cast<int>(std::min<int64_t>(STEPS, a.steps - begin));
    gather(a.u, row, first, lanes, begin, count, buffers.u);
    gather(a.delta, row, first, lanes, begin, count, buffers.step);
    Vector bias = {}, skip = {};
    if (a.delta_bias) std::memcpy(&bias, a.delta_bias + first, lanes * sizeof(float));
    if (a.D) std::memcpy(&skip, a.D + first, lanes * sizeof(float));
    for (int t = 0; t < count; ++t) {
        Vector step = softplus(buffers.step[t] + bias);
        if (a.mask) step *= a.mask[row * a.steps + begin + t];
        buffers.step[t] = step;
        buffers.written[t] = step * buffers.u[t];
        buffers.y[t] = skip * buffers.u[t];
    }
    int64_t n = 0;
    for (; n + TILE <= a.states; n += TILE)
        run_tile<TILE>(a.B, a.C, row, begin, count, n, buffers.rate.data(), buffers.step, buffers.written,
                       buffers.state.data(), buffers.y);
    for (; n < a.states; ++n)
        run_tile<1>(a.B, a.C, row, begin, count, n, buffers.rate.data(), buffers.step, buffers.written,
                    buffers.state.data(), buffers.y);
    if (a.z.data) {
        gather(a.z, row, first, lanes, begin, count, buffers.gate);
        for (int t = 0; t < count; ++t) buffers.y[t] *= silu(buffers.gate[t]);
    }
    for (int t = 0; t < count; ++t)
        std::memcpy(a.y + (row * a.steps + begin + t) * a.channels + first, &buffers.y[t], lanes * sizeof(float));
}

void run_tasks(const Arguments& a, int64_t begin, int64_t end) {
    const int64_t groups = (a.channels + WIDTH - 1) / WIDTH;
    Buffers buffers(a.states);
    for (int64_t task = begin; task < end; ++task) {
        const int64_t row = task / groups, first = task % groups * WIDTH;
        const int lanes = static_cast<int>(std::min<int64_t>(WIDTH, a.channels - first));
        load_states(a.A + first * a.states, a.states, lanes, buffers.rate.data());
        for (Vector& rate : buffers.rate) rate *= LOG2_E;
        if (a.initial_state)
            load_states(a.initial_state + (row * a.channels + first) * a.states, a.states, lanes, buffers.state.data());
        else
            std::fill(buffers.state.begin(), buffers.state.end(), Vector{});
        for (int64_t t = 0; t < a.steps; t += STEPS) run_block(a, row, first, lanes, t, buffers);
        const float* flat = reinterpret_cast<const float*>(buffers.state.data());
        for (int lane = 0; lane < lanes; ++lane)
            for (int64_t n = 0; n < a.states; ++n)
                a.state[(row * a.channels + first + lane) * a.states + n] = flat[n * WIDTH + lane];
    }
}

}  // namespace

extern "C" void jrt_selective_scan(const Arguments* arguments) {
    const Arguments& a = *arguments;
    const int64_t tasks = (a.channels + WIDTH - 1) / WIDTH * a.rows;
    in_threads(tasks, a.threads, [&a](int64_t first, int64_t last) { run_tasks(a, first, last); });
}
