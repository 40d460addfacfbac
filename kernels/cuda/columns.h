// Fourier transforms of the columns of a strip by one block, in place in shared memory; the arithmetic is in
// shared/fft.h.
//
// Column c of a strip starts at c * pitch. An odd pitch puts neighbouring columns into different banks, so neighbouring
// threads process neighbouring columns. Every loop is strided by the block: a block of any size gives the same result.
#pragma once

#include "../shared/fft.h"

namespace recon {

// Aligned, so that a value moves in one instruction.
template <>
struct alignas(8) Complex<float> {
    float re, im;
};
typedef Complex<float> Value;

RECON_INLINE Value times(Value a, Value b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
RECON_INLINE Value conj_times(Value a, Value b) { return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re}; }

// Layout from kernels/fourier.py: radix, span, first twiddle and first root of each pass, and frequency[position] after
// the forward transform.
struct Plan {
    int n, passes;
    const int* pass;
    const float* table;
    const int* frequency;
};

// A strip of 2^shift columns.
struct Strip {
    Value* values;
    int shift, pitch;
    RECON_INLINE int column(int i) const { return i & ((1 << shift) - 1); }
    RECON_INLINE int row(int i) const { return i >> shift; }
    RECON_INLINE Value& at(int row, int column) const { return values[column * pitch + row]; }
};

enum class Way { forward, backward, filter };

// One pass over the strip. `filter` is the last forward pass, the weights and the first backward pass: a thread uses
// only its own values, so there is no barrier between the three.
template <Way way, int radix>
RECON_INLINE void pass(const Plan& plan, const int* p, const Strip& s, const float* weights) {
    const int r = radix ? radix : p[0], span = p[1], m = span / r;
    const float *twiddles = plan.table + p[2], *roots = plan.table + p[3];
    for (int i = threadIdx.x; i < (plan.n / r) << s.shift; i += blockDim.x) {
        const int b = s.row(i), j = b % m, start = b / m * span;
        Value* block = &s.at(start, s.column(i));
        if (way != Way::backward) forward_butterfly<radix>(block, m, r, twiddles, roots, j);
        if (way == Way::filter)
            for (int k = 0; k < r; ++k) {
                const float w = weights[plan.frequency[start + j + k * m]];
                Value v = block[j + k * m];
                block[j + k * m] = {v.re * w, v.im * w};
            }
        if (way != Way::forward) backward_butterfly<radix>(block, m, r, twiddles, roots, j);
    }
    __syncthreads();
}

template <Way way>
RECON_INLINE void one_pass(const Plan& plan, int number, const Strip& s, const float* weights) {
    const int* p = plan.pass + 4 * number;
    switch (p[0]) {
        case 2: pass<way, 2>(plan, p, s, weights); break;
        case 3: pass<way, 3>(plan, p, s, weights); break;
        case 4: pass<way, 4>(plan, p, s, weights); break;
        case 5: pass<way, 5>(plan, p, s, weights); break;
        case 8: pass<way, 8>(plan, p, s, weights); break;
        default: pass<way, 0>(plan, p, s, weights);
    }
}

// Natural order in, digit-reversed order out.
RECON_INLINE void forward(const Plan& plan, const Strip& s) {
    for (int k = 0; k < plan.passes; ++k) one_pass<Way::forward>(plan, k, s, nullptr);
}

// Digit-reversed order in, natural order out.
RECON_INLINE void backward(const Plan& plan, const Strip& s) {
    for (int k = plan.passes - 1; k >= 0; --k) one_pass<Way::backward>(plan, k, s, nullptr);
}

// F^-1 w F; w in the order of the frequencies.
RECON_INLINE void filter(const Plan& plan, const Strip& s, const float* weights) {
    if (plan.passes == 0) {
        for (int i = threadIdx.x; i < 1 << s.shift; i += blockDim.x)
            s.at(0, i) = {s.at(0, i).re * weights[0], s.at(0, i).im * weights[0]};
        __syncthreads();
        return;
    }
    const int last = plan.passes - 1;
    for (int k = 0; k < last; ++k) one_pass<Way::forward>(plan, k, s, nullptr);
    one_pass<Way::filter>(plan, last, s, weights);
    for (int k = last - 1; k >= 0; --k) one_pass<Way::backward>(plan, k, s, nullptr);
}

}  // namespace recon
