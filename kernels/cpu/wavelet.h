// One level of an orthonormal, periodic wavelet transform along one axis, in place, and shrinkage.
//
// Row k of the analysis holds the filter at positions 2k + 1 - p + t, t < 2p, modulo the length n: (n + 1)/2 scaling
// functions, then n/2 wavelets. If n is odd, the last scaling function overlaps the first, and `seam` holds what is
// added to a few rows to make all orthonormal. Values are complex, treated as pairs of floats.
#pragma once

#include <cstring>
#include <vector>

#include "../shared/shrink.h"
#include "sense.h"

namespace recon {

struct Filters {
    int order;                     // vanishing moments p; 2p taps
    std::vector<float> low, high;  // high[t] = (-1)^t low[2p - 1 - t]
    std::vector<int> rows, columns;  // for an odd length: where the analysis differs from its filters
    std::vector<float> seam;  // and by how much, (row, column)
    explicit Filters(const float* taps, int count) : order(count / 2), low(taps, taps + count), high(count) {
        for (int t = 0; t < count; ++t) high[t] = (t % 2 ? -1 : 1) * low[count - 1 - t];
    }
};

inline int around(int i, int n) { return i < 0 ? i + n : i >= n ? i - n : i; }

// n values of `width` floats each, `stride` floats apart, from and to memory; scratch holds 2 n width floats.
template <int width>
inline void analyse(float* at, long stride, int n, const Filters& f, float* scratch) {
    const int half = (n + 1) / 2;
    for (int i = 0; i < n; ++i) std::memcpy(scratch + long(i) * width, at + i * stride, width * sizeof(float));
    for (int k = 0; k < half; ++k) {
        float low[width] = {}, high[width] = {};
        for (int t = 0; t < 2 * f.order; ++t) {
            const float* from = scratch + long(around(2 * k + 1 - f.order + t, n)) * width;
            const float l = f.low[t], h = f.high[t];
            for (int i = 0; i < width; ++i) low[i] += l * from[i], high[i] += h * from[i];
        }
        std::memcpy(at + k * stride, low, sizeof low);
        if (k < n / 2) std::memcpy(at + (k + half) * stride, high, sizeof high);
    }
    const float* factor = f.seam.data();
    for (int row : f.rows)
        for (int column : f.columns) {
            const float* from = scratch + long(column) * width;
            for (int i = 0; i < width; ++i) at[row * stride + i] += *factor * from[i];
            ++factor;
        }
}

template <int width>
inline void synthesise(float* at, long stride, int n, const Filters& f, float* scratch) {
    const int half = (n + 1) / 2;
    for (int i = 0; i < n; ++i) std::memcpy(scratch + long(i) * width, at + i * stride, width * sizeof(float));
    for (int m = 0; m < n; ++m) {
        float sum[width] = {};
        // m = 2k + 1 - p + t: every second tap, from the scaling functions and wavelets that reach m. Those that reach
        // it across the end use m + n or m - n, which at an odd length takes the other taps.
        for (int seen = m - n; seen <= m + n; seen += n) {
            const int reach = seen - 1 + f.order;
            const int least = reach - 2 * (half - 1);  // the tap of the last scaling function
            int first = reach < 0 ? 2 * f.order : reach % 2;
            if (first < least) first = least;
            for (int t = first; t < 2 * f.order && t <= reach; t += 2) {
                const int k = (reach - t) / 2;
                const float *a = scratch + long(k) * width, *d = scratch + long(k + half) * width;
                const float l = f.low[t], h = f.high[t];
                if (k < n / 2)
                    for (int i = 0; i < width; ++i) sum[i] += l * a[i] + h * d[i];
                else
                    for (int i = 0; i < width; ++i) sum[i] += l * a[i];
            }
        }
        std::memcpy(at + m * stride, sum, sizeof sum);
    }
    const float* factor = f.seam.data();
    for (int row : f.rows)
        for (int column : f.columns) {
            const float* from = scratch + long(row) * width;
            for (int i = 0; i < width; ++i) at[column * stride + i] += *factor * from[i];
            ++factor;
        }
}

// Along the rows themselves: sixteen rows are first transposed into columns, so that they are processed together.
constexpr int ROWS = 8;

template <bool inverse>
inline void along_rows(float* at, long stride, int rows, int n, const Filters& f, float* block, float* scratch) {
    constexpr int width = 2 * ROWS;
    for (int r = 0; r < ROWS; ++r) {
        const float* from = at + (r < rows ? r : 0) * stride;
        for (int i = 0; i < n; ++i) {
            block[long(i) * width + 2 * r] = from[2 * i];
            block[long(i) * width + 2 * r + 1] = from[2 * i + 1];
        }
    }
    if (inverse) synthesise<width>(block, width, n, f, scratch);
    else analyse<width>(block, width, n, f, scratch);
    for (int r = 0; r < rows; ++r) {
        float* to = at + r * stride;
        for (int i = 0; i < n; ++i) {
            to[2 * i] = block[long(i) * width + 2 * r];
            to[2 * i + 1] = block[long(i) * width + 2 * r + 1];
        }
    }
}

// One level along `axis` (0 z, 1 y, 2 x) of the corner (cz, cy, cx) of each item of x (items, nz, ny, nx).
template <bool inverse>
inline void wavelet_level(complex64* x, long items, const int size[3], const int corner[3], int axis, const Filters& f,
                          int threads) {
    constexpr int width = 16;  // floats of one column block: a cache line
    const long plane = long(size[1]) * size[2];
    const int n = corner[axis];
    const int strips = axis == 2 ? (corner[1] + ROWS - 1) / ROWS : (2 * corner[2] + width - 1) / width;
    const int lines = axis == 0 ? corner[1] : corner[0];
    const long stride = axis == 0 ? 2 * plane : 2L * size[2];
    const Room memory(threads, 2L * n * width / LANES + 1);  // 4 n width floats
#pragma omp parallel num_threads(threads)
    {
        float *block = reinterpret_cast<float*>(memory.own()), *scratch = block + 2L * n * width;
#pragma omp for schedule(static)
        for (long task = 0; task < items * lines * strips; ++task) {
            const int strip = int(task % strips);
            const int line = int(task / strips % lines);
            float* base = reinterpret_cast<float*>(x + task / strips / lines * size[0] * plane +
                                                   (axis == 0 ? long(line) * size[2] : long(line) * plane));
            if (axis == 2) {
                const int first = strip * ROWS, rows = corner[1] - first < ROWS ? corner[1] - first : ROWS;
                along_rows<inverse>(base + 2L * first * size[2], 2L * size[2], rows, n, f, block, scratch);
                continue;
            }
            float* at = base + strip * width;
            const int rest = 2 * corner[2] - strip * width;
            if (rest >= width) {
                if (inverse) synthesise<width>(at, stride, n, f, scratch);
                else analyse<width>(at, stride, n, f, scratch);
                continue;
            }
            std::memset(block, 0, size_t(n) * width * sizeof(float));
            for (int i = 0; i < n; ++i) std::memcpy(block + long(i) * width, at + i * stride, rest * sizeof(float));
            if (inverse) synthesise<width>(block, width, n, f, scratch);
            else analyse<width>(block, width, n, f, scratch);
            for (int i = 0; i < n; ++i) std::memcpy(at + i * stride, block + long(i) * width, rest * sizeof(float));
        }
    }
}

template <Power power>
inline void shrink(complex64* x, long n, float threshold, float exponent, int threads) {
    float* at = reinterpret_cast<float*>(x);
    const float inverse = inverse_of(threshold);
    constexpr long part = 4096;
#pragma omp parallel for schedule(static) num_threads(threads) if (n > 4 * part)
    for (long start = 0; start < n; start += part) {
        const long end = start + part < n ? start + part : n;
        for (long i = start; i < end; ++i) {
            const float f = shrink_factor<power>(at[2 * i], at[2 * i + 1], inverse, exponent);
            at[2 * i] *= f;
            at[2 * i + 1] *= f;
        }
    }
}

}  // namespace recon
