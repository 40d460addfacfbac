// The dominant eigenvector of small Hermitian matrices, by power iterations from a close guess. T is a vector of
// neighbouring pixels on the CPU and a float on CUDA. A matrix is its upper triangle, row by row: G[0][0], G[0][1] ...
// G[0][c-1], G[1][1] ...
#pragma once

#include "fft.h"

namespace recon {

template <class T>
RECON_INLINE Complex<T> product(Complex<T> a, Complex<T> b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

// conj(a) b
template <class T>
RECON_INLINE Complex<T> conj_product(Complex<T> a, Complex<T> b) {
    return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}

// G = sum over lags of wave[lag] k[lag]; k (lag, entry) interleaved and the same for all pixels of T
template <class T>
RECON_INLINE void pixel_matrix(const float* k, const Complex<T>* wave, int lags, int entries, Complex<T>* G) {
    for (int e = 0; e < entries; ++e) {
        Complex<T> sum = turned(wave[0], k[2 * e], k[2 * e + 1]);
        for (int lag = 1; lag < lags; ++lag) {
            const float* at = k + 2 * (long(lag) * entries + e);
            Complex<T> part = turned(wave[lag], at[0], at[1]);
            sum = sum + part;
        }
        G[e] = sum;
    }
}

// y = G v
template <class T>
RECON_INLINE void hermitian_times(const Complex<T>* G, const Complex<T>* v, Complex<T>* y, int coils) {
    for (int c = 0; c < coils; ++c) y[c] = Complex<T>{v[c].re * 0.0f, v[c].re * 0.0f};
    const Complex<T>* g = G;
    for (int c = 0; c < coils; ++c) {
        Complex<T> sum = y[c], own = v[c];
        sum.re = sum.re + g->re * own.re;  // the diagonal is real
        sum.im = sum.im + g->re * own.im;
        ++g;
        for (int d = c + 1; d < coils; ++d, ++g) {
            sum = sum + product(*g, v[d]);
            y[d] = y[d] + conj_product(*g, own);
        }
        y[c] = sum;
    }
}

// |v|^2
template <class T>
RECON_INLINE T norm2(const Complex<T>* v, int coils) {
    T sum = v[0].re * v[0].re + v[0].im * v[0].im;
    for (int c = 1; c < coils; ++c) sum = sum + v[c].re * v[c].re + v[c].im * v[c].im;
    return sum;
}

// Re <v, y>
template <class T>
RECON_INLINE T inner(const Complex<T>* v, const Complex<T>* y, int coils) {
    T sum = v[0].re * y[0].re + v[0].im * y[0].im;
    for (int c = 1; c < coils; ++c) sum = sum + v[c].re * y[c].re + v[c].im * y[c].im;
    return sum;
}

// Squared Frobenius norm: no eigenvalue is larger than its root.
template <class T>
RECON_INLINE T frobenius2(const Complex<T>* G, int coils) {
    const Complex<T>* g = G;
    T sum = g->re * 0.0f;
    for (int c = 0; c < coils; ++c) {
        sum = sum + g->re * g->re;
        ++g;
        for (int d = c + 1; d < coils; ++d, ++g) sum = sum + (g->re * g->re + g->im * g->im) * 2.0f;
    }
    return sum;
}

// sum of a conj(b)
template <class T>
RECON_INLINE Complex<T> overlap(const Complex<T>* a, const Complex<T>* b, int count) {
    Complex<T> sum = conj_product(b[0], a[0]);
    for (int n = 1; n < count; ++n) sum = sum + conj_product(b[n], a[n]);
    return sum;
}

// A whole matrix (row, column) from its upper triangle.
template <class T>
RECON_INLINE void unfold(const Complex<T>* G, Complex<T>* full, int coils) {
    for (int c = 0; c < coils; ++c)
        for (int d = c; d < coils; ++d, ++G) {
            full[c * coils + d] = *G;
            full[d * coils + c] = {G->re, G->im * -1.0f};
        }
}

// out = P P of a whole Hermitian matrix.
template <class T>
RECON_INLINE void squared(const Complex<T>* P, Complex<T>* out, int coils) {
    for (int c = 0; c < coils; ++c)
        for (int d = c; d < coils; ++d) {
            const Complex<T> sum = overlap(P + c * coils, P + d * coils, coils);
            out[c * coils + d] = sum;
            out[d * coils + c] = {sum.re, sum.im * -1.0f};
        }
}

}  // namespace recon
