// One level of an orthonormal, periodic wavelet transform along one axis, in place. A block holds a few whole lines in
// shared memory, so that everything it overwrites has been read. Row k of the analysis holds the filter at 2k + 1 - p +
// t, t < 2p, modulo the even length n: n/2 scaling functions, then n/2 wavelets, whose taps are (-1)^t low[2p - 1 - t].
#include "columns.h"

using recon::Value;

RECON_INLINE int around(int i, int n) { return i < 0 ? i + n : i >= n ? i - n : i; }

// Value m of the analysis of a line whose values lie `step` apart.
RECON_INLINE Value analysed(const Value* line, int step, int m, int n, const float* low, int order) {
    const bool high = m >= n / 2;
    const int start = 2 * (high ? m - n / 2 : m) + 1 - order;
    Value sum = {0, 0};
    for (int t = 0; t < 2 * order; ++t) {
        const float tap = high ? (t % 2 ? -low[2 * order - 1 - t] : low[2 * order - 1 - t]) : low[t];
        const Value v = line[around(start + t, n) * step];
        sum.re += tap * v.re;
        sum.im += tap * v.im;
    }
    return sum;
}

// Value m of the synthesis: m = 2k + 1 - p + t for every second tap t.
RECON_INLINE Value synthesised(const Value* line, int step, int m, int n, const float* low, int order) {
    Value sum = {0, 0};
    for (int t = (m + order + 1) % 2; t < 2 * order; t += 2) {
        const int twice = m - 1 + order - t, k = around((twice < 0 ? twice + n : twice) / 2, n / 2);
        const float l = low[t], h = t % 2 ? -low[2 * order - 1 - t] : low[2 * order - 1 - t];
        const Value a = line[k * step], d = line[(k + n / 2) * step];
        sum.re += l * a.re + h * d.re;
        sum.im += l * a.im + h * d.im;
    }
    return sum;
}

// x (items, sz, sy, sx) contiguous; a level along `axis` (0 z, 1 y, 2 x) of the corner (cz, cy, cx), whose length along
// the axis is even and at least 2 p. Blocks count groups of 1 << shift lines; neighbouring lines are neighbours along
// x, or along y if the axis is x.
extern "C" __global__ void __launch_bounds__(256)
wavelet_level(Value* x, const float* low, int order, int inverse, int axis, int sz, int sy, int sx, int cz, int cy, int cx,
              long long lines, int shift) {
    extern __shared__ double shared_memory[];
    Value* held = reinterpret_cast<Value*>(shared_memory);
    const int n = axis == 0 ? cz : axis == 1 ? cy : cx, width = 1 << shift;
    const long long stride = axis == 0 ? (long long)(sy) * sx : axis == 1 ? sx : 1;
    const int inner = axis == 2 ? cy : cx, outer = axis == 0 ? cy : cz;
    const long long inner_step = axis == 2 ? sx : 1, outer_step = axis == 0 ? sx : (long long)(sy) * sx;
    const int count = n << shift;
    // Neighbouring threads access neighbouring memory.
    auto line_of = [&](int i) { return axis == 2 ? i / n : i & (width - 1); };
    auto value_of = [&](int i) { return axis == 2 ? i % n : i >> shift; };
    auto start = [&](int i) {
        const long long line = blockIdx.x * (long long)(width) + line_of(i);
        if (line >= lines) return -1LL;
        const long long in = line % inner, rest = line / inner;
        return rest / outer * sz * sy * sx + rest % outer * outer_step + in * inner_step;
    };
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const long long at = start(i);
        if (at >= 0) held[(value_of(i) << shift) + line_of(i)] = x[at + value_of(i) * stride];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const long long at = start(i);
        if (at < 0) continue;
        const Value* line = held + line_of(i);
        const int m = value_of(i);
        x[at + m * stride] = inverse ? synthesised(line, width, m, n, low, order) : analysed(line, width, m, n, low, order);
    }
}
