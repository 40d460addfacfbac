// In-place mixed-radix Fourier transforms of columns, for the CPU (T = a vector of neighbouring columns) and for CUDA
// (T = float, one thread per column). Without any library.
//
// forward:  decimation in frequency, X[k] = sum_n x[n] exp(-2 pi i n k / N), natural order in, digit-reversed order out
// backward: decimation in time, the exact reverse with conjugate twiddles, digit-reversed order in, natural order out
//
// The multiplication by weights between the two is done in the digit-reversed order: nothing is ever sorted. Twiddles
// of a pass over blocks of n with radix r are stored as [j][q - 1] = exp(-2 pi i j q / n), j < n / r, q < r.
#pragma once

#ifdef __CUDACC__
#define RECON_INLINE __device__ __forceinline__
#define RECON_CONSTANT __host__ __device__ constexpr
#else
#define RECON_CONSTANT constexpr
#define RECON_INLINE inline __attribute__((always_inline))
#endif

namespace recon {

template <class T>
struct Complex {
    T re, im;
};

template <class T>
RECON_INLINE Complex<T> operator+(Complex<T> a, Complex<T> b) {
    return {a.re + b.re, a.im + b.im};
}

template <class T>
RECON_INLINE Complex<T> operator-(Complex<T> a, Complex<T> b) {
    return {a.re - b.re, a.im - b.im};
}

// a (c + i d) with a number for all columns
template <class T>
RECON_INLINE Complex<T> turned(Complex<T> a, float c, float d) {
    return {a.re * c - a.im * d, a.re * d + a.im * c};
}

// i a if sign > 0, -i a if sign < 0
template <int sign, class T>
RECON_INLINE Complex<T> quarter(Complex<T> a) {
    return sign > 0 ? Complex<T>{-a.im, a.re} : Complex<T>{a.im, -a.re};
}

// Discrete Fourier transform of r values in place, exponent sign * 2 pi i / r.
template <int sign, class T>
RECON_INLINE void dft2(Complex<T>* a) {
    Complex<T> b = a[0] - a[1];
    a[0] = a[0] + a[1];
    a[1] = b;
}

template <int sign, class T>
RECON_INLINE void dft3(Complex<T>* a) {
    const float s = 0.866025403784438647f;
    Complex<T> sum = a[1] + a[2], dif = a[1] - a[2];
    Complex<T> mid = {a[0].re - sum.re * 0.5f, a[0].im - sum.im * 0.5f};
    Complex<T> out = quarter<sign>(Complex<T>{dif.re * s, dif.im * s});
    a[0] = a[0] + sum;
    a[1] = mid + out;
    a[2] = mid - out;
}

template <int sign, class T>
RECON_INLINE void dft4(Complex<T>* a) {
    Complex<T> p = a[0] + a[2], q = a[0] - a[2], r = a[1] + a[3], s = quarter<sign>(a[1] - a[3]);
    a[0] = p + r;
    a[1] = q + s;
    a[2] = p - r;
    a[3] = q - s;
}

template <int sign, class T>
RECON_INLINE void dft5(Complex<T>* a) {
    const float c1 = 0.309016994374947424f, c2 = -0.809016994374947424f;
    const float s1 = 0.951056516295153572f, s2 = 0.587785252292473129f;
    Complex<T> p = a[1] + a[4], q = a[2] + a[3], r = a[1] - a[4], s = a[2] - a[3], z = a[0];
    Complex<T> u = {z.re + p.re * c1 + q.re * c2, z.im + p.im * c1 + q.im * c2};
    Complex<T> v = {z.re + p.re * c2 + q.re * c1, z.im + p.im * c2 + q.im * c1};
    Complex<T> w = quarter<sign>(Complex<T>{r.re * s1 + s.re * s2, r.im * s1 + s.im * s2});
    Complex<T> t = quarter<sign>(Complex<T>{r.re * s2 - s.re * s1, r.im * s2 - s.im * s1});
    a[0] = z + p + q;
    a[1] = u + w;
    a[2] = v + t;
    a[3] = v - t;
    a[4] = u - w;
}

template <int sign, class T>
RECON_INLINE void dft8(Complex<T>* a) {
    const float h = 0.707106781186547524f;
    Complex<T> even[4] = {a[0], a[2], a[4], a[6]}, odd[4] = {a[1], a[3], a[5], a[7]};
    dft4<sign>(even);
    dft4<sign>(odd);
    odd[1] = turned(odd[1], h, sign * h);
    odd[2] = quarter<sign>(odd[2]);
    odd[3] = turned(odd[3], -h, sign * h);
    for (int k = 0; k < 4; ++k) {
        a[k] = even[k] + odd[k];
        a[k + 4] = even[k] - odd[k];
    }
}

// Any radix up to 16, for factors 7, 11 and 13; roots[k] = exp(-2 pi i k / r), interleaved.
template <int sign, class T>
RECON_INLINE void dft_any(Complex<T>* a, int r, const float* roots) {
    Complex<T> out[16];
    for (int k = 0; k < r; ++k) {
        Complex<T> sum = a[0];
        for (int n = 1, at = k; n < r; ++n, at = at + k >= r ? at + k - r : at + k)
            sum = sum + turned(a[n], roots[2 * at], -sign * roots[2 * at + 1]);
        out[k] = sum;
    }
    for (int k = 0; k < r; ++k) a[k] = out[k];
}

template <int sign, int radix, class T>
RECON_INLINE void dft(Complex<T>* a, int r, const float* roots) {
    if (radix == 2) dft2<sign>(a);
    else if (radix == 3) dft3<sign>(a);
    else if (radix == 4) dft4<sign>(a);
    else if (radix == 5) dft5<sign>(a);
    else if (radix == 8) dft8<sign>(a);
    else dft_any<sign>(a, r, roots);
}

// One butterfly: column j of a block whose values lie `m` apart. `radix` 0 stands for any.
template <int radix, class T>
RECON_INLINE void forward_butterfly(Complex<T>* block, int m, int r, const float* twiddles, const float* roots, int j) {
    Complex<T> a[radix ? radix : 16];
    if (radix) r = radix;
    for (int k = 0; k < r; ++k) a[k] = block[j + k * m];
    dft<-1, radix>(a, r, roots);
    block[j] = a[0];
    const float* w = twiddles + 2 * j * (r - 1);
    for (int q = 1; q < r; ++q) block[j + q * m] = turned(a[q], w[2 * q - 2], w[2 * q - 1]);
}

template <int radix, class T>
RECON_INLINE void backward_butterfly(Complex<T>* block, int m, int r, const float* twiddles, const float* roots, int j) {
    Complex<T> a[radix ? radix : 16];
    if (radix) r = radix;
    const float* w = twiddles + 2 * j * (r - 1);
    a[0] = block[j];
    for (int q = 1; q < r; ++q) a[q] = turned(block[j + q * m], w[2 * q - 2], -w[2 * q - 1]);
    dft<1, radix>(a, r, roots);
    for (int k = 0; k < r; ++k) block[j + k * m] = a[k];
}

}  // namespace recon
