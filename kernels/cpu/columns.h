// LANES neighbouring columns of complex values: transfer from memory to registers and back, and operations on them.
#pragma once

#include <omp.h>

#include <complex>
#include <cstdint>
#include <cstring>
#include <new>

#include "fft.h"

namespace recon {

typedef std::complex<float> complex64;

struct Buffer {  // aligned memory that a thread keeps from call to call
    Row* rows = nullptr;
    size_t size = 0;
    ~Buffer() { release(); }
    void release() {
        if (rows) ::operator delete(rows, std::align_val_t(64));
        rows = nullptr, size = 0;
    }
    Row* at_least(size_t wanted) {
        if (wanted > size) {
            release();
            rows = static_cast<Row*>(::operator new(wanted * sizeof(Row), std::align_val_t(64)));
            size = wanted;
        }
        return rows;
    }
};

// Work space of a team of threads, `each` rows for every one. It is allocated before they begin, because an exception
// inside a parallel region cannot be caught.
struct Room {
    Row* rows;
    size_t each;
    Room(int threads, size_t wanted) : each(wanted) {
        static thread_local Buffer memory;
        if (wanted && size_t(threads) > SIZE_MAX / sizeof(Row) / wanted) throw std::bad_alloc();
        rows = memory.at_least(size_t(threads) * wanted);
    }
    Row* own() const { return rows + each * size_t(omp_get_thread_num()); }
};

// LANES interleaved complex values to real and imaginary parts; past `count` they are zero. With AVX the order is 0 1 4
// 5 2 3 6 7, which halves the number of shuffles and is sufficient while columns are independent: `put_columns`
// restores the order.
inline Row take_columns(const complex64* at, int count) {
    alignas(64) float part[2 * LANES];
    const float* from = reinterpret_cast<const float*>(at);
    if (count < LANES) {
        std::memset(part, 0, sizeof part);
        std::memcpy(part, at, count * sizeof(complex64));
        from = part;
    }
    Lanes a, b;
    std::memcpy(&a, from, sizeof a);
    std::memcpy(&b, from + LANES, sizeof b);
#ifdef __AVX512F__
    return {__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
            __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)};
#elif defined(__AVX__)
    return {__builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14),
            __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15)};
#else
    return {__builtin_shufflevector(a, b, 0, 2, 4, 6), __builtin_shufflevector(a, b, 1, 3, 5, 7)};
#endif
}

inline void put_columns(Row v, complex64* at, int count) {
#ifdef __AVX512F__
    Lanes a = __builtin_shufflevector(v.re, v.im, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    Lanes b = __builtin_shufflevector(v.re, v.im, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX__)
    Lanes a = __builtin_shufflevector(v.re, v.im, 0, 8, 1, 9, 4, 12, 5, 13);
    Lanes b = __builtin_shufflevector(v.re, v.im, 2, 10, 3, 11, 6, 14, 7, 15);
#else
    Lanes a = __builtin_shufflevector(v.re, v.im, 0, 4, 1, 5);
    Lanes b = __builtin_shufflevector(v.re, v.im, 2, 6, 3, 7);
#endif
    if (count >= LANES) {
        std::memcpy(reinterpret_cast<float*>(at), &a, sizeof a);
        std::memcpy(reinterpret_cast<float*>(at) + LANES, &b, sizeof b);
    } else {
        alignas(64) float part[2 * LANES];
        std::memcpy(part, &a, sizeof a);
        std::memcpy(part + LANES, &b, sizeof b);
        std::memcpy(reinterpret_cast<float*>(at), part, count * sizeof(complex64));
    }
}

// Applies that order, or reverts it.
inline Row in_order(Row v) {
#if defined(__AVX__) && !defined(__AVX512F__)
    return {__builtin_shufflevector(v.re, v.re, 0, 1, 4, 5, 2, 3, 6, 7),
            __builtin_shufflevector(v.im, v.im, 0, 1, 4, 5, 2, 3, 6, 7)};
#else
    return v;
#endif
}

inline Row load(const complex64* at, int count) { return in_order(take_columns(at, count)); }
inline void store(Row v, complex64* at, int count) { put_columns(in_order(v), at, count); }

inline Row times(Row a, Row b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
inline Row conj_times(Row a, Row b) { return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re}; }
inline void add(Row& sum, Row v) { sum.re += v.re, sum.im += v.im; }
inline Row zero() { return Row{Lanes{}, Lanes{}}; }

}  // namespace recon
