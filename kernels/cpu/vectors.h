// The vector steps of conjugate gradients, each in one pass. Sums are computed over fixed blocks in a fixed order, so
// that a problem has the same bits alone, in a batch, and on any number of threads.
#pragma once

#include <cstring>
#include <vector>

#include "fft.h"

namespace recon {

constexpr long BLOCK = 8192;  // floats of one partial sum

// Calls part(item, start, count) -> double for every block and adds the results of each item in order.
template <class Part>
inline void sums(long items, long n, double* out, int threads, Part part) {
    const long blocks = n ? (n + BLOCK - 1) / BLOCK : 0;
    std::vector<double> partial(items * blocks);
#pragma omp parallel for schedule(static) num_threads(threads) if (items * blocks > 4)
    for (long at = 0; at < items * blocks; ++at) {
        long start = at % blocks * BLOCK;
        partial[at] = part(at / blocks, start, n - start < BLOCK ? n - start : BLOCK);
    }
    for (long item = 0; item < items; ++item) {
        out[item] = 0;
        for (long b = 0; b < blocks; ++b) out[item] += partial[item * blocks + b];
    }
}

inline Lanes take(const float* at) {
    Lanes v;
    std::memcpy(&v, at, sizeof v);
    return v;
}

inline void put(float* at, Lanes v) { std::memcpy(at, &v, sizeof v); }

// Sum of a b over `count` floats, 4 vectors at a time. `change(i, lanes)` may update memory before it is summed.
template <class Vector, class Scalar>
inline double accumulate(long count, Vector vector, Scalar scalar) {
    Lanes sum[4] = {};
    long i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (int k = 0; k < 4; ++k) sum[k] += vector(i + k * LANES);
    Lanes all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    double total = 0;
    for (int k = 0; k < LANES; ++k) total += all[k];
    for (; i < count; ++i) total += scalar(i);
    return total;
}

// <a, b> of each item
inline void dot(const float* a, const float* b, long items, long n, double* out, int threads) {
    sums(items, n, out, threads, [=](long item, long start, long count) {
        const float *p = a + item * n + start, *q = b + item * n + start;
        return accumulate(count, [=](long i) { return take(p + i) * take(q + i); }, [=](long i) { return p[i] * q[i]; });
    });
}

// q += shift p; <p, q>
inline void curvature(const float* p, float* q, const float* shift, long items, long n, double* out, int threads) {
    sums(items, n, out, threads, [=](long item, long start, long count) {
        const float* a = p + item * n + start;
        float *b = q + item * n + start, s = shift[item];
        return accumulate(
            count,
            [=](long i) {
                Lanes v = take(b + i) + take(a + i) * s;
                put(b + i, v);
                return take(a + i) * v;
            },
            [=](long i) {
                b[i] += a[i] * s;
                return a[i] * b[i];
            });
    });
}

// x += step p; r -= step q; <r, r>
inline void advance(float* x, const float* p, float* r, const float* q, const float* step, long items, long n,
                    double* out, int threads) {
    sums(items, n, out, threads, [=](long item, long start, long count) {
        const long at = item * n + start;
        float *a = x + at, *c = r + at, s = step[item];
        const float *b = p + at, *d = q + at;
        return accumulate(
            count,
            [=](long i) {
                put(a + i, take(a + i) + take(b + i) * s);
                Lanes v = take(c + i) - take(d + i) * s;
                put(c + i, v);
                return v * v;
            },
            [=](long i) {
                a[i] += b[i] * s;
                c[i] -= d[i] * s;
                return c[i] * c[i];
            });
    });
}

// p = r + beta p
inline void turn(float* p, const float* r, const float* beta, long items, long n, int threads) {
    std::vector<double> unused(items);
    sums(items, n, unused.data(), threads, [=](long item, long start, long count) {
        float *a = p + item * n + start, s = beta[item];
        const float* b = r + item * n + start;
        long i = 0;
        for (; i + LANES <= count; i += LANES) put(a + i, take(b + i) + take(a + i) * s);
        for (; i < count; ++i) a[i] = b[i] + a[i] * s;
        return 0.0;
    });
}

}  // namespace recon
