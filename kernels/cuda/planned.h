// Fourier transforms of a strip of columns for lengths known at compile time: RECON_N with its RECON_RADICES
// (kernels/fourier.py chooses them), strips of 1 << RECON_SHIFT columns, blocks of RECON_THREADS, of which a
// multiprocessor should hold RECON_RESIDENT. Columns have RECON_ROWS values, RECON_STRIDE apart: with both known, an
// address costs no instruction and no register.
//
// The first pass reads from the image and the last adds to the sum, so a strip goes through shared memory only once
// between two passes. k-space stays in the order in which the passes leave it, and so do the weights.
#pragma once

#include "radix.h"

#ifndef RECON_N
#define RECON_N 320
#define RECON_RADICES 16, 20
#define RECON_SHIFT 3
#define RECON_THREADS 160
#define RECON_RESIDENT 3
#define RECON_ROWS 320
#define RECON_STRIDE 320
#endif

using recon::small_dft;
using recon::Value;

constexpr int N = RECON_N, SHIFT = RECON_SHIFT, WIDTH = 1 << SHIFT, THREADS = RECON_THREADS;
constexpr int ROWS = RECON_ROWS, STRIDE = RECON_STRIDE;
constexpr int RADICES[] = {RECON_RADICES};
constexpr int PASSES = sizeof RADICES / sizeof RADICES[0];

RECON_CONSTANT int span(int pass) {
    int n = N;
    for (int i = 0; i < pass; ++i) n /= RADICES[i];
    return n;
}
// Where the twiddles of a pass start in the table: [k - 1][j], so that neighbouring butterflies read neighbours.
RECON_CONSTANT int twiddles(int pass) {
    int at = 0;
    for (int i = 0; i < pass; ++i) at += span(i + 1) * (RADICES[i] - 1);
    return at;
}
// Columns start in different banks if the threads of half a warp process neighbouring rows of all columns.
RECON_CONSTANT int pitch() {
    int p = N;
    while (p % 16 != (16 >> SHIFT) % 16) ++p;
    return p;
}

// One pass: butterflies of a strip, of which a thread processes every THREADS-th. `load(i, row)` returns and `store(i,
// row, v)` receives the value of a row of the thread's column; i counts the values of one butterfly.
template <int pass>
struct Pass {
    static constexpr int R = RADICES[pass], SPAN = span(pass), M = SPAN / R, COUNT = (N / R) << SHIFT;
    static constexpr int TABLE = twiddles(pass);

    template <class Load, class Store>
    static RECON_INLINE void forward(const Value* table, int b, Load load, Store store) {
        const int j = b % M, start = b / M * SPAN;
        const Value* w = table + TABLE + j;
        Value a[R];
#pragma unroll
        for (int k = 0; k < R; ++k) a[k] = load(k, start + j + k * M);
        small_dft<-1, R>(a);
#pragma unroll
        for (int k = 0; k < R; ++k)
            store(k, start + j + k * M, M == 1 || k == 0 ? a[k] : recon::times(a[k], w[(k - 1) * M]));
    }
    template <class Load, class Store>
    static RECON_INLINE void backward(const Value* table, int b, Load load, Store store) {
        const int j = b % M, start = b / M * SPAN;
        const Value* w = table + TABLE + j;
        Value a[R];
#pragma unroll
        for (int k = 0; k < R; ++k) {
            a[k] = load(k, start + j + k * M);
            if (M > 1 && k > 0) a[k] = recon::conj_times(w[(k - 1) * M], a[k]);
        }
        small_dft<1, R>(a);
#pragma unroll
        for (int k = 0; k < R; ++k) store(k, start + j + k * M, a[k]);
    }
    // Calls f(butterfly) for each of the thread's own.
    template <class F>
    static RECON_INLINE void each(F f) {
#pragma unroll
        for (int i = 0; i < (COUNT + THREADS - 1) / THREADS; ++i) {
            const int at = threadIdx.x + i * THREADS;
            if (COUNT % THREADS == 0 || at < COUNT) f(at >> SHIFT);
        }
    }
};

using First = Pass<0>;
using Last = Pass<PASSES - 1>;
static_assert(First::COUNT <= THREADS, "a thread holds one butterfly of the first pass");

// Whether the k-th value of butterfly j of the first pass lies within the column: known at compile time except for the
// last k.
RECON_INLINE bool within(int j, int k) { return (k + 1) * First::M <= ROWS || j + k * First::M < ROWS; }

// The thread's column in shared memory.
RECON_INLINE Value* own_column(double* memory) {
    return reinterpret_cast<Value*>(memory) + (threadIdx.x & (WIDTH - 1)) * pitch();
}

// Zeros that the compiler cannot know, different ones for each iteration of a loop (a grid has one dimension).
// Addresses that include them are read again in each iteration, forward and backward, from the first-level cache,
// instead of being kept in registers, which the sum and a butterfly need entirely.
RECON_INLINE int nothing_forward(int turn) { return turn * int(blockIdx.y); }
RECON_INLINE int nothing_backward(int turn) { return turn * int(blockIdx.z); }

// Passes from `pass` to before `end` forward, in shared memory.
template <int pass, int end>
RECON_INLINE void forward(Value* s, const Value* table) {
    if constexpr (pass < end) {
        Pass<pass>::each([&](int b) {
            Pass<pass>::forward(table, b, [&](int, int row) { return s[row]; }, [&](int, int row, Value v) { s[row] = v; });
        });
        __syncthreads();
        forward<pass + 1, end>(s, table);
    }
}

// Passes from before `pass` down to `end` backward.
template <int pass, int end>
RECON_INLINE void backward(Value* s, const Value* table) {
    if constexpr (pass > end) {
        using P = Pass<pass - 1>;
        P::each([&](int b) {
            P::backward(table, b, [&](int, int row) { return s[row]; }, [&](int, int row, Value v) { s[row] = v; });
        });
        __syncthreads();
        backward<pass - 1, end>(s, table);
    }
}

// As many weights as one load reads.
template <int count>
struct alignas(4 * count) Row {
    float w[count];
};

// The last forward pass, the weights and the same pass backward, in registers; between `load` and `store`.
template <class Load, class Store>
RECON_INLINE void weigh(const Value* table, const float* weights, int b, Load load, Store store) {
    constexpr int R = Last::R, AT_ONCE = R % 4 == 0 ? 4 : R % 2 == 0 ? 2 : 1;
    Value a[R];
    Last::forward(table, b, load, [&](int k, int, Value v) { a[k] = v; });
    const Row<AT_ONCE>* w = reinterpret_cast<const Row<AT_ONCE>*>(weights + b * R);
#pragma unroll
    for (int i = 0; i < R / AT_ONCE; ++i) {
        const Row<AT_ONCE> some = w[i];
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) {
            Value& v = a[AT_ONCE * i + k];
            v = {v.re * some.w[k], v.im * some.w[k]};
        }
    }
    Last::backward(table, b, [&](int k, int) { return a[k]; }, store);
}

// F^-1 w F of a strip: `load` provides the input, and `store` receives the output. `turn` counts strips.
template <class Load, class Store>
RECON_INLINE void filter(Value* s, const Value* table, const float* weights, bool works, int turn, Load load, Store store) {
    const int b = threadIdx.x >> SHIFT;
    const Value* there = table + nothing_forward(turn);
    const float* w = weights + nothing_forward(turn);
    if constexpr (PASSES == 1) {
        if (works) weigh(there, w, b, load, store);
    } else {
        if (works) First::forward(there, b, load, [&](int, int row, Value v) { s[row] = v; });
        __syncthreads();
        forward<1, PASSES - 1>(s, there);
        Last::each([&](int own) {
            weigh(there, w, own, [&](int, int row) { return s[row]; }, [&](int, int row, Value v) { s[row] = v; });
        });
        __syncthreads();
        const Value* back = table + nothing_backward(turn);
        backward<PASSES - 1, 1>(s, back);
        // A thread reads what it writes next: no barrier before another strip.
        if (works) First::backward(back, b, [&](int, int row) { return s[row]; }, store);
    }
}
