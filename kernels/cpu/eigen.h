// Sensitivity maps as dominant eigenvectors of one Hermitian matrix per pixel, LANES neighbouring columns at once.
//
// Columns are independent: each is processed from top to bottom, starting every pixel from the row above. A pixel's
// value therefore depends neither on threads nor on which other columns are computed.
#pragma once

#include <cmath>

#include "../shared/eigen.h"
#include "columns.h"

namespace recon {

struct EigenSizes {
    int coils, lags, nz, ny, nx;  // of the given planes
    long coil_stride;  // between the maps of two coils, in complex values
};

struct EigenRule {
    float least;      // eigenvalues below this need not be exact
    float tolerance;  // |G v - lambda v| <= tolerance lambda
    int iterations;   // at most
};

inline Lanes root(Lanes v) {
    for (int i = 0; i < LANES; ++i) v[i] = std::sqrt(v[i]);
    return v;
}

// Unit length for active lanes, 1 or 0; others keep their bits, however long their neighbours take.
inline void normalise(Row* v, int coils, Lanes active) {
    const Lanes size = norm2(v, coils);
    Lanes scale;
    for (int i = 0; i < LANES; ++i) scale[i] = active[i] == 0 ? 1 : size[i] > 1e-30f ? 1 / std::sqrt(size[i]) : 0;
    for (int c = 0; c < coils; ++c) v[c].re *= scale, v[c].im *= scale;
}

// |y - rho v|^2. Computed as |y|^2 - rho^2 it would lose all digits when it is small.
inline Lanes residual2(const Row* v, const Row* y, int coils, Lanes rho) {
    Lanes wrong{};
    for (int c = 0; c < coils; ++c) {
        Lanes re = y[c].re - rho * v[c].re, im = y[c].im - rho * v[c].im;
        wrong += re * re + im * im;
    }
    return wrong;
}

// v <- y in active lanes
inline void take_over(Row* v, const Row* y, int coils, Lanes active) {
    for (int c = 0; c < coils; ++c) {
        v[c].re += active * (y[c].re - v[c].re);
        v[c].im += active * (y[c].im - v[c].im);
    }
}

// Unit length, and the phase that makes the component along the reference real and positive; zero in lanes that are 0.
inline void finish(Row* v, const Row* towards, int coils, Lanes lanes) {
    Row along = zero();
    for (int c = 0; c < coils; ++c) along = along + conj_product(towards[c], v[c]);
    const Lanes size = norm2(v, coils);
    Lanes scale = {};
    for (int i = 0; i < LANES; ++i) {
        const float length = std::hypot(along.re[i], along.im[i]);
        along.re[i] = length > 0 ? along.re[i] / length : 1;
        along.im[i] = length > 0 ? -along.im[i] / length : 0;
        scale[i] = lanes[i] != 0 && size[i] > 1e-30f ? 1 / std::sqrt(size[i]) : 0;
    }
    for (int c = 0; c < coils; ++c) {
        v[c] = product(v[c], along);
        v[c].re *= scale, v[c].im *= scale;
    }
}

// input: kernels (nz, ny, lag, entry), waves (x, lag), reference (coil); output: maps (coil, nz, ny, nx), values (nz,
// ny, nx).
inline void eigenmaps(const EigenSizes& s, const EigenRule& rule, const complex64* kernels, const complex64* waves,
                      const complex64* reference, complex64* maps, float* values, int threads) {
    const int entries = s.coils * (s.coils + 1) / 2, strips = (s.nx + LANES - 1) / LANES;
    const Room memory(threads, s.lags + entries + 4 * s.coils);
#pragma omp parallel num_threads(threads)
    {
        Row* wave = memory.own();
        Row *G = wave + s.lags, *v = G + entries, *y = v + s.coils, *start = y + s.coils, *towards = start + s.coils;
#pragma omp for schedule(dynamic)
        for (long task = 0; task < long(s.nz) * strips; ++task) {
            const int z = int(task / strips), x0 = int(task % strips) * LANES;
            const int count = s.nx - x0 < LANES ? s.nx - x0 : LANES;
            for (int lag = 0; lag < s.lags; ++lag)
                for (int i = 0; i < LANES; ++i) {
                    complex64 w = waves[long(x0 + (i < count ? i : 0)) * s.lags + lag];
                    wave[lag].re[i] = w.real(), wave[lag].im[i] = w.imag();
                }
            // A start that is almost certainly not orthogonal to any eigenvector: golden-angle phases.
            const float even = 1 / std::sqrt(float(s.coils));
            for (int c = 0; c < s.coils; ++c) {
                start[c] = {Lanes{} + even * std::cos(2.39996f * c), Lanes{} + even * std::sin(2.39996f * c)};
                towards[c] = {Lanes{} + reference[c].real(), Lanes{} + reference[c].imag()};
                v[c] = towards[c];
            }
            for (int row = 0; row < s.ny; ++row) {
                const long plane = long(z) * s.ny + row;
                pixel_matrix(reinterpret_cast<const float*>(kernels + plane * s.lags * entries), wave, s.lags, entries, G);
                const Lanes bound = frobenius2(G, s.coils);
                for (int c = 0; c < s.coils; ++c) v[c] = v[c] + Complex<Lanes>{start[c].re * 0.1f, start[c].im * 0.1f};
                Lanes value{};
                Lanes active{};  // 1 where a pixel has not converged
                for (int i = 0; i < LANES; ++i) active[i] = 1;
                for (int k = 0; k < rule.iterations; ++k) {
                    normalise(v, s.coils, active);
                    hermitian_times(G, v, y, s.coils);
                    const Lanes rayleigh = inner(v, y, s.coils), wrong = residual2(v, y, s.coils, rayleigh);
                    bool any = false;
                    for (int i = 0; i < LANES; ++i) {
                        if (active[i] == 0) continue;
                        value[i] = rayleigh[i];
                        const float limit = rule.tolerance * rayleigh[i];
                        const bool there = k > 0 && wrong[i] <= limit * limit;
                        const bool below = bound[i] < rule.least * rule.least ||
                                           (k > 7 && rayleigh[i] + 2 * std::sqrt(wrong[i]) < rule.least);
                        if (there || below) active[i] = 0;
                        else any = true;
                    }
                    if (!any) break;
                    take_over(v, y, s.coils, active);
                }
                finish(v, towards, s.coils, Lanes{} + 1.0f);
                for (int c = 0; c < s.coils; ++c) store(v[c], maps + c * s.coil_stride + plane * s.nx + x0, count);
                value *= 1 - 2 * active;  // negative where not converged: the caller solves these pixels in another way
                std::memcpy(values + plane * s.nx + x0, &value, count * sizeof(float));
            }
        }
    }
}

}  // namespace recon
