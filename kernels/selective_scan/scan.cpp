// The selective scan on a CPU: one pass over the sequence, states in registers, channels in the lanes of a vector.
//
// Built by compiled.py with the system's compiler and called through ctypes, so it includes nothing of torch and depends
// on no OpenMP. Vector types are those of GCC and Clang; their width is the machine's.
//
// A task is one group of WIDTH channels of one row. It walks the sequence in blocks of STEPS: the inputs of a block are
// brought into vectors (softplus and mask applied), then each tile of TILE states runs over the block with its states in
// registers, then the block's outputs get the skip connection and the gate.

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

namespace {

constexpr int WIDTH = VECTOR_BYTES / 4;
constexpr int TILE = WIDTH == 8 ? 8 : 16;  // AVX2 has 16 registers, the others 32
constexpr int STEPS = 64;

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

}  // namespace

extern "C" {

// A (rows, channels or states, steps) tensor of float32; strides in elements. No data means that it is left out.
struct Sequence {
    const float* data;
    int64_t row, channel, step;
};

struct Arguments {
    Sequence u, delta, B, C, z;
    const float *A, *D, *delta_bias, *initial_state, *mask;  // contiguous: (D, N), (D), (D), (rows, D, N), (rows, T)
    float *y, *state;                                        // contiguous: (rows, T, D), (rows, D, N)
    int64_t rows, channels, states, steps, threads;
};
}

namespace {

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
    const int64_t threads = std::max<int64_t>(1, std::min(a.threads, tasks));
    std::vector<std::thread> others;
    int64_t given = tasks / threads;  // the caller's own share
    try {
        for (int64_t i = 1; i < threads; ++i) {
            const int64_t end = tasks * (i + 1) / threads;
            others.emplace_back(run_tasks, std::cref(a), given, end);
            given = end;
        }
    } catch (const std::system_error&) {  // no more threads to be had: the caller does the rest
    }
    run_tasks(a, 0, tasks / threads);
    if (given < tasks) run_tasks(a, given, tasks);
    for (std::thread& other : others) other.join();
}
