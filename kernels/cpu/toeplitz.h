// Convolution of planes with a kernel as long as the image, through the even and odd frequencies of the doubled grid.
//
//     T x = sum over a in {0,1}^2 of conj(D_a) F^-1 K_a F D_a x,   D_a[n] = exp(-pi i a n / N)
//
// Along y, LANES neighbouring columns are transformed at once; along x, LANES rows, which are transposed into columns
// and back. A plane stays in the cache from the first transform to the last.
#pragma once

#include <cmath>

#include "columns.h"

namespace recon {

struct Half {  // exp(-pi i n / N)
    std::vector<float> re, im;
    explicit Half(int n) : re(n), im(n) {
        for (int i = 0; i < n; ++i) {
            re[i] = float(std::cos(3.14159265358979323846 * i / n));
            im[i] = -float(std::sin(3.14159265358979323846 * i / n));
        }
    }
};

// LANES x LANES values of one part (real or imaginary), rows to columns.
inline void transpose(const float* from, long from_stride, float* to, long to_stride) {
    for (int i = 0; i < LANES; ++i)
        for (int j = 0; j < LANES; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}

// x and out (items, ny, nx); spectra (4, kernels, ny, nx) in the FFT's order, scaled by 1/(ny nx); kernel[item].
inline void toeplitz(const complex64* x, complex64* out, const float* spectra, const int* kernel, long items,
                     long kernels, int ny, int nx, int threads) {
    const auto py = plan(ny), px = plan(nx);
    const int strips = (nx + LANES - 1) / LANES, groups = (ny + LANES - 1) / LANES;
    const int wide = strips * LANES;
    const Half hy(ny), hx(nx);
    // The spectra in the order of the transforms' frequencies: (a, kernel, group of rows, column, row in the group).
    std::vector<float> sorted(4 * kernels * groups * LANES * long(nx));
    // A plane: (strip, y) rows of LANES columns, with room for a whole group at the end of each strip
    const int tall = groups * LANES;
    const Room memory(threads, long(strips) * tall + wide);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long at = 0; at < 4 * kernels * groups; ++at) {
            const float* from = spectra + at / groups * ny * nx;
            float* to = sorted.data() + at * LANES * nx;
            const int first = int(at % groups) * LANES;
            for (int q = 0; q < nx; ++q)
                for (int l = 0; l < LANES; ++l)
                    to[q * LANES + l] = first + l < ny ? from[long(py->frequency[first + l]) * nx + px->frequency[q]] : 0;
        }
        Row* plane = memory.own();
        Row* lines = plane + long(strips) * tall;
#pragma omp for schedule(static)
        for (long item = 0; item < items; ++item) {
            const complex64* from = x + item * ny * nx;
            complex64* to = out + item * ny * nx;
            for (int a = 0; a < 4; ++a) {
                const bool odd_y = a & 2, odd_x = a & 1;
                const float* K = sorted.data() + (long(a) * kernels + kernel[item]) * groups * LANES * nx;
                for (int s = 0; s < strips; ++s) {
                    const int first = s * LANES, count = nx - first < LANES ? nx - first : LANES;
                    Row phase = {Lanes{} + 1.0f, Lanes{}};
                    if (odd_x)
                        for (int l = 0; l < count; ++l) phase.re[l] = hx.re[first + l], phase.im[l] = hx.im[first + l];
                    Row* column = plane + long(s) * tall;
                    for (int y = 0; y < ny; ++y) {
                        Row v = load(from + long(y) * nx + first, count);
                        if (odd_x) v = times(v, phase);
                        column[y] = odd_y ? turned(v, hy.re[y], hy.im[y]) : v;
                    }
                    for (int y = ny; y < tall; ++y) column[y] = zero();
                    forward(*py, column);
                }
                for (int g = 0; g < groups; ++g) {
                    float* flat = reinterpret_cast<float*>(plane + g * LANES);
                    float* turn = reinterpret_cast<float*>(lines);
                    constexpr long two = 2 * LANES;
                    for (int s = 0; s < strips; ++s)
                        for (int part = 0; part < 2; ++part)
                            transpose(flat + long(s) * tall * two + part * LANES, two,
                                      turn + long(s) * LANES * two + part * LANES, two);
                    forward(*px, lines);
                    const float* w = K + long(g) * LANES * nx;
                    for (int q = 0; q < nx; ++q) {
                        Lanes f;
                        std::memcpy(&f, w + long(q) * LANES, sizeof f);
                        lines[q].re *= f, lines[q].im *= f;
                    }
                    backward(*px, lines);
                    for (int s = 0; s < strips; ++s)
                        for (int part = 0; part < 2; ++part)
                            transpose(turn + long(s) * LANES * two + part * LANES, two,
                                      flat + long(s) * tall * two + part * LANES, two);
                }
                for (int s = 0; s < strips; ++s) {
                    const int first = s * LANES, count = nx - first < LANES ? nx - first : LANES;
                    Row phase = {Lanes{} + 1.0f, Lanes{}};
                    if (odd_x)
                        for (int l = 0; l < count; ++l) phase.re[l] = hx.re[first + l], phase.im[l] = -hx.im[first + l];
                    Row* column = plane + long(s) * tall;
                    backward(*py, column);
                    for (int y = 0; y < ny; ++y) {
                        Row v = odd_y ? turned(column[y], hy.re[y], -hy.im[y]) : column[y];
                        if (odd_x) v = times(v, phase);
                        if (a) add(v, load(to + long(y) * nx + first, count));
                        store(v, to + long(y) * nx + first, count);
                    }
                }
            }
        }
    }
}

}  // namespace recon
