// Fourier transforms of a few values that one thread holds in registers: those of shared/fft.h, and products of them.
#pragma once

#include "columns.h"

namespace recon {

RECON_CONSTANT int inverse_modulo(int a, int n) {
    for (int x = 1; x < n; ++x)
        if (a * x % n == 1) return x;
    return 0;
}

template <int sign, int R>
RECON_INLINE void small_dft(Value* a);

// A and B without a common factor: two steps without twiddles (Good, 1958).
template <int sign, int A, int B>
RECON_INLINE void coprime_dft(Value* a) {
    constexpr int n = A * B, to_a = B * inverse_modulo(B % A, A), to_b = A * inverse_modulo(A % B, B);
    Value t[n];
#pragma unroll
    for (int j = 0; j < B; ++j) {
        Value part[A];
#pragma unroll
        for (int i = 0; i < A; ++i) part[i] = a[(B * i + A * j) % n];
        small_dft<sign, A>(part);
#pragma unroll
        for (int k = 0; k < A; ++k) t[k * B + j] = part[k];
    }
#pragma unroll
    for (int k = 0; k < A; ++k) {
        small_dft<sign, B>(t + k * B);
#pragma unroll
        for (int m = 0; m < B; ++m) a[(k * to_a + m * to_b) % n] = t[k * B + m];
    }
}

// exp(sign * 2 pi i k / 16) times a, k = 1, 2, 3, 4, 6, 9
template <int sign>
RECON_INLINE Value sixteenth(Value a, int k) {
    const float c = 0.923879532511286756f, s = 0.382683432365089772f, h = 0.707106781186547524f;
    switch (k) {
        case 1: return turned(a, c, sign * s);
        case 2: return turned(a, h, sign * h);
        case 3: return turned(a, s, sign * c);
        case 4: return quarter<sign>(a);
        case 6: return turned(a, -h, sign * h);
        case 9: return turned(a, -c, -sign * s);
        default: return a;
    }
}

template <int sign>
RECON_INLINE void dft16(Value* a) {
    Value t[16];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        Value part[4] = {a[j], a[4 + j], a[8 + j], a[12 + j]};
        dft4<sign>(part);
#pragma unroll
        for (int k = 0; k < 4; ++k) t[4 * k + j] = sixteenth<sign>(part[k], j * k);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        dft4<sign>(t + 4 * k);
#pragma unroll
        for (int m = 0; m < 4; ++m) a[k + 4 * m] = t[4 * k + m];
    }
}

template <int sign>
RECON_INLINE void dft9(Value* a) {
    const float c1 = 0.766044443118978035f, s1 = 0.642787609686539326f;    // 2 pi / 9
    const float c2 = 0.173648177666930349f, s2 = 0.984807753012208059f;    // 4 pi / 9
    const float c4 = -0.939692620785908384f, s4 = 0.342020143325668733f;  // 8 pi / 9
    Value t[9];
#pragma unroll
    for (int j = 0; j < 3; ++j) {
        Value part[3] = {a[j], a[3 + j], a[6 + j]};
        dft3<sign>(part);
#pragma unroll
        for (int k = 0; k < 3; ++k) t[3 * k + j] = part[k];
    }
    t[4] = turned(t[4], c1, sign * s1);
    t[5] = turned(t[5], c2, sign * s2);
    t[7] = turned(t[7], c2, sign * s2);
    t[8] = turned(t[8], c4, sign * s4);
#pragma unroll
    for (int k = 0; k < 3; ++k) {
        dft3<sign>(t + 3 * k);
#pragma unroll
        for (int m = 0; m < 3; ++m) a[k + 3 * m] = t[3 * k + m];
    }
}

template <int sign, int R>
RECON_INLINE void small_dft(Value* a) {
    if constexpr (R == 2) dft2<sign>(a);
    else if constexpr (R == 3) dft3<sign>(a);
    else if constexpr (R == 4) dft4<sign>(a);
    else if constexpr (R == 5) dft5<sign>(a);
    else if constexpr (R == 6) coprime_dft<sign, 2, 3>(a);
    else if constexpr (R == 8) dft8<sign>(a);
    else if constexpr (R == 9) dft9<sign>(a);
    else if constexpr (R == 10) coprime_dft<sign, 2, 5>(a);
    else if constexpr (R == 12) coprime_dft<sign, 3, 4>(a);
    else if constexpr (R == 15) coprime_dft<sign, 3, 5>(a);
    else if constexpr (R == 16) dft16<sign>(a);
    else if constexpr (R == 20) coprime_dft<sign, 4, 5>(a);
    else static_assert(R == 1, "a radix without a transform");
}

}  // namespace recon
