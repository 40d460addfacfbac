// All levels of the orthonormal Haar transform of planes, with the shift of cycle spinning, in one pass per level.
//
// One level maps squares a b / c d to (a + b + c + d) / 2 and three differences, which is the separable transform along
// y and x. Sums go on to the next level, details to their places around the corner with the sums. Values are complex,
// treated as pairs of floats.
#pragma once

#include <cstring>
#include <vector>

#include "columns.h"

namespace recon {

// Two rows of 2n values to the four bands, n values each.
inline void haar_apart(const float* __restrict top, const float* __restrict under, int n, float* __restrict sum,
                       float* __restrict across, float* __restrict along, float* __restrict both) {
    for (int j = 0; j < n; ++j)
        for (int p = 0; p < 2; ++p) {
            const float a = top[4 * j + p], b = top[4 * j + 2 + p], c = under[4 * j + p], d = under[4 * j + 2 + p];
            const float s = a + b, t = c + d, e = a - b, f = c - d;
            sum[2 * j + p] = 0.5f * (s + t);
            across[2 * j + p] = 0.5f * (e + f);
            along[2 * j + p] = 0.5f * (s - t);
            both[2 * j + p] = 0.5f * (e - f);
        }
}

// The inverse, which is the transpose.
inline void haar_together(float* __restrict top, float* __restrict under, int n, const float* __restrict sum,
                          const float* __restrict across, const float* __restrict along, const float* __restrict both) {
    for (int j = 0; j < n; ++j)
        for (int p = 0; p < 2; ++p) {
            const float s = sum[2 * j + p] + along[2 * j + p], t = sum[2 * j + p] - along[2 * j + p];
            const float e = across[2 * j + p] + both[2 * j + p], f = across[2 * j + p] - both[2 * j + p];
            top[4 * j + p] = 0.5f * (s + e);
            top[4 * j + 2 + p] = 0.5f * (s - e);
            under[4 * j + p] = 0.5f * (t + f);
            under[4 * j + 2 + p] = 0.5f * (t - f);
        }
}

// A row of n values rotated by `shift` places, 0 <= shift < n, from or to memory.
inline void turned(float* to, const float* from, int n, int shift) {
    std::memcpy(to + 2L * shift, from, 2L * (n - shift) * sizeof(float));
    std::memcpy(to, from + 2L * (n - shift), 2L * shift * sizeof(float));
}

// `levels` levels of x (items, ny, nx), whose sides halve evenly that often, into out; x is first rotated by `shift`,
// or the result of the inverse rotated back by it.
template <bool inverse>
inline void haar(const complex64* x, complex64* out, long items, int ny, int nx, int levels, const int shift[2], int threads) {
    const long plane = 2L * ny * nx, row = 2L * nx;
    std::vector<float> sums[2];  // of every second level
    sums[0].resize(plane / 4 + 1), sums[1].resize(plane / 16 + 1);
    const Room memory(threads, 4L * nx / (2 * LANES) + 1);  // a pair of rows
    const int back[2] = {shift[0] ? ny - shift[0] : 0, shift[1] ? nx - shift[1] : 0};
    for (long item = 0; item < items; ++item) {
        const float* in = reinterpret_cast<const float*>(x) + item * plane;
        float* to = reinterpret_cast<float*>(out) + item * plane;
        for (int step = 0; step < levels; ++step) {
            const int level = inverse ? levels - 1 - step : step;
            const int h = ny >> (level + 1), w = nx >> (level + 1);  // of one band
            const bool first = level == 0, last = level == levels - 1;
            // The sums of this level and of the previous one are stored in the corner if no level follows, otherwise
            // next to each other.
            float* own = sums[level % 2].data();
            float* above = first ? nullptr : sums[(level + 1) % 2].data();
#pragma omp parallel for schedule(static) num_threads(threads) if (h * w > 4096)
            for (int k = 0; k < h; ++k) {
                float* pair = reinterpret_cast<float*>(memory.own());
                const long low = k * row, high = (h + k) * row;
                if (!inverse) {
                    const float *top = above + 8L * w * k, *under = above + 4L * w * (2 * k + 1);
                    if (first) {
                        const int at = 2 * k + back[0];
                        turned(pair, in + at % ny * row, nx, shift[1]);
                        turned(pair + row, in + (at + 1) % ny * row, nx, shift[1]);
                        top = pair, under = pair + row;
                    }
                    haar_apart(top, under, w, last ? to + low : own + 2L * w * k, to + low + 2 * w, to + high, to + high + 2 * w);
                } else {
                    const float* sum = last ? in + low : own + 2L * w * k;
                    float *top = first ? pair : above + 8L * w * k, *under = first ? pair + row : above + 4L * w * (2 * k + 1);
                    haar_together(top, under, w, sum, in + low + 2 * w, in + high, in + high + 2 * w);
                    if (first) {
                        const int at = 2 * k + back[0];
                        turned(to + at % ny * row, pair, nx, back[1]);
                        turned(to + (at + 1) % ny * row, pair + row, nx, back[1]);
                    }
                }
            }
        }
    }
}

}  // namespace recon
