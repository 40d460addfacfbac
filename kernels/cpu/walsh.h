// Sensitivity maps as dominant eigenvectors of the coils' correlation in a window, LANES neighbouring columns at once.
//
// A column is processed from top to bottom. The contribution of a row to the correlation is computed once and kept as
// long as windows contain it, and each pixel starts from the vector of the pixel above. Columns are independent, so a
// pixel's bits depend neither on threads nor on how wide the image is beyond its window.
#pragma once

#include <algorithm>

#include "eigen.h"

namespace recon {

struct Windows {
    int coils, nz, ny, nx, wz, wy, wx;  // odd windows

    int entries() const { return coils * (coils + 1) / 2; }
    long plane() const { return long(ny) * nx; }
};

// Columns x ... x + LANES - 1 of a row of nx values, zero beyond its ends.
inline Row load_around(const complex64* row, int x, int nx) {
    if (x >= 0 && x + LANES <= nx) return load(row + x, LANES);
    Row v = zero();
    for (int i = 0; i < LANES; ++i)
        if (x + i >= 0 && x + i < nx) v.re[i] = row[x + i].real(), v.im[i] = row[x + i].imag();
    return v;
}

// The contribution of row y to the correlation: the sum of x_c conj(x_d) over the window's z and x.
inline void correlate_row(const Windows& s, const complex64* images, int z, int y, int x, Row* samples, Row* out) {
    const int z0 = std::max(0, z - s.wz / 2), z1 = std::min(s.nz, z + s.wz / 2 + 1), count = (z1 - z0) * s.wx;
    for (int c = 0; c < s.coils; ++c) {
        Row* to = samples + long(c) * count;
        for (int at = z0; at < z1; ++at) {
            const complex64* row = images + (long(c) * s.nz + at) * s.plane() + long(y) * s.nx;
            for (int dx = -(s.wx / 2); dx <= s.wx / 2; ++dx) *to++ = load_around(row, x + dx, s.nx);
        }
    }
    for (int c = 0; c < s.coils; ++c)
        for (int d = c; d < s.coils; ++d) *out++ = overlap(samples + long(c) * count, samples + long(d) * count, count);
}

// Lanes that have not converged, 1 or 0, of y = G v: |y - rho v| > tolerance rho. Values of converged lanes are stored.
inline bool unsolved(const Row* v, const Row* y, int coils, float tolerance, bool first, Lanes& active, Lanes& value) {
    const Lanes rayleigh = inner(v, y, coils), wrong = residual2(v, y, coils, rayleigh);
    bool any = false;
    for (int i = 0; i < LANES; ++i) {
        if (active[i] == 0) continue;
        value[i] = rayleigh[i];
        const float limit = tolerance * rayleigh[i];
        if (!first && wrong[i] <= limit * limit) active[i] = 0;
        else any = true;
    }
    return any;
}

constexpr int PLAIN = 6;  // power iterations before the matrix itself is squared

// The dominant eigenvector of G, with trace one, from a close guess v, and its eigenvalue. Power iterations suffice in
// tissue; if two eigenvalues are nearly equal, the matrix is squared 3 + 2 + 2 + 2 + 2 + 2 times. `full` holds 2
// coils^2 values.
inline void solve_pixel(const Row* G, Row* v, Row* y, Row* full, int coils, float tolerance, Lanes active, Lanes& value) {
    bool any = true;
    for (int k = 0; k < PLAIN && any; ++k) {
        normalise(v, coils, active);
        hermitian_times(G, v, y, coils);
        any = unsolved(v, y, coils, tolerance, k == 0, active, value);
        if (any) take_over(v, y, coils, active);
    }
    if (!any) return;
    normalise(v, coils, active);
    Row *power = full, *square = full + long(coils) * coils;
    unfold(G, power, coils);
    for (int squarings : {3, 2, 2, 2, 2, 2}) {
        Lanes trace{}, scale;
        for (int c = 0; c < coils; ++c) trace += power[long(c) * coils + c].re;
        for (int i = 0; i < LANES; ++i) scale[i] = trace[i] > 1e-30f ? 1 / trace[i] : 0;
        for (long e = 0; e < long(coils) * coils; ++e) power[e].re *= scale, power[e].im *= scale;
        for (int n = 0; n < squarings; ++n) {
            squared(power, square, coils);
            std::swap(power, square);
        }
        for (int c = 0; c < coils; ++c) {
            y[c] = zero();
            for (int d = 0; d < coils; ++d) y[c] = y[c] + product(power[long(c) * coils + d], v[d]);
        }
        take_over(v, y, coils, active);
        normalise(v, coils, active);
        hermitian_times(G, v, y, coils);
        if (!unsolved(v, y, coils, tolerance, false, active, value)) return;
    }
}

// input: images (coil, nz, ny, nx), reference (coil); output: maps (coil, nz, ny, nx), values = lambda / trace (nz, ny,
// nx).
inline void local_maps(const Windows& s, float tolerance, const complex64* images, const complex64* reference,
                       complex64* maps, float* values, int threads) {
    const int entries = s.entries(), strips = (s.nx + LANES - 1) / LANES, half = s.wy / 2;
    const long kept = long(s.wy) * entries, square = long(s.coils) * s.coils;
    const Room memory(threads, kept + entries + 2 * square + (4 + long(s.wz) * s.wx) * s.coils);
#pragma omp parallel num_threads(threads)
    {
        Row* ring = memory.own();
        Row *G = ring + kept, *full = G + entries, *v = full + 2 * square, *y = v + s.coils, *start = y + s.coils;
        Row *towards = start + s.coils, *samples = towards + s.coils;
#pragma omp for schedule(dynamic)
        for (long task = 0; task < long(s.nz) * strips; ++task) {
            const int z = int(task / strips), x = int(task % strips) * LANES, count = std::min(s.nx - x, LANES);
            for (int c = 0; c < s.coils; ++c) {
                start[c] = {Lanes{} + std::cos(2.39996f * c), Lanes{} + std::sin(2.39996f * c)};  // see `eigenmaps`
                towards[c] = {Lanes{} + reference[c].real(), Lanes{} + reference[c].imag()};
                v[c] = towards[c];
            }
            for (int row = 0; row < std::min(half, s.ny); ++row)
                correlate_row(s, images, z, row, x, samples, ring + long(row % s.wy) * entries);
            for (int row = 0; row < s.ny; ++row) {
                const int last = std::min(s.ny - 1, row + half), first = std::max(0, row - half);
                if (row + half < s.ny)
                    correlate_row(s, images, z, last, x, samples, ring + long(last % s.wy) * entries);
                for (int e = 0; e < entries; ++e) {
                    Row sum = zero();
                    for (int r = first; r <= last; ++r) sum = sum + ring[long(r % s.wy) * entries + e];
                    G[e] = sum;
                }
                Lanes trace{}, active{}, value{};
                for (int c = 0, e = 0; c < s.coils; e += s.coils - c++) trace += G[e].re;
                // With unit trace no power of the matrix exceeds the range of single precision.
                Lanes scale{};
                for (int i = 0; i < LANES; ++i)
                    if (trace[i] > 1e-30f) active[i] = 1, scale[i] = 1 / trace[i];
                for (int e = 0; e < entries; ++e) G[e].re *= scale, G[e].im *= scale;
                const float small = 0.1f / std::sqrt(float(s.coils));
                for (int c = 0; c < s.coils; ++c) v[c] = v[c] + Row{start[c].re * small, start[c].im * small};
                solve_pixel(G, v, y, full, s.coils, tolerance, active, value);
                finish(v, towards, s.coils, active);
                const long at = long(z) * s.plane() + long(row) * s.nx + x;
                for (int c = 0; c < s.coils; ++c) store(v[c], maps + c * s.nz * s.plane() + at, count);
                std::memcpy(values + at, &value, count * sizeof(float));
            }
        }
    }
}

}  // namespace recon
