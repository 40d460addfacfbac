// Multi-coil encoding of Cartesian scans along one or two phase encodes, strip by strip of the readout.
//
// A strip is LANES neighbouring columns of x. It is multiplied by one coil's map, transformed, weighted, transformed
// back and added to the image while it is in the cache; coil images never exist as a whole. Each strip belongs to one
// thread, and coils are added in their order: two runs give the same bits.
#pragma once

#include <complex>
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
        rows = nullptr;
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

// LANES interleaved complex values to real and imaginary parts; past `count` they are zero.
inline Row load(const complex64* at, int count) {
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
    return {__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14),
            __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15)};
#else
    return {__builtin_shufflevector(a, b, 0, 2, 4, 6), __builtin_shufflevector(a, b, 1, 3, 5, 7)};
#endif
}

inline void store(Row v, complex64* at, int count) {
#ifdef __AVX512F__
    Lanes a = __builtin_shufflevector(v.re, v.im, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    Lanes b = __builtin_shufflevector(v.re, v.im, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX__)
    Lanes a = __builtin_shufflevector(v.re, v.im, 0, 8, 1, 9, 2, 10, 3, 11);
    Lanes b = __builtin_shufflevector(v.re, v.im, 4, 12, 5, 13, 6, 14, 7, 15);
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

inline Row times(Row a, Row b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
inline Row conj_times(Row a, Row b) { return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re}; }
inline void add(Row& sum, Row v) { sum.re += v.re, sum.im += v.im; }
inline Row zero() { return Row{Lanes{}, Lanes{}}; }

// Sizes of one problem; ky and kz are the lengths of the transforms, at least ny and nz. kz = 1 leaves z alone.
struct Sizes {
    long items, map_items, weight_items;
    int sets, coils, nz, ny, nx, kz, ky;
};

struct Encoding {
    const Sizes s;
    const complex64* maps;   // (map_items, sets, coils, nz, ny, nx)
    const float* weights;    // (weight_items, wz, ky): wz is kz, or where kz = 1 it is 1 or nz
    const int weight_planes;
    const std::shared_ptr<const Plan> py, pz;

    Encoding(Sizes sizes, const complex64* m, const float* w, int planes)
        : s(sizes), maps(m), weights(w), weight_planes(planes), py(plan(sizes.ky)), pz(plan(sizes.kz)) {}

    int strips() const { return (s.nx + LANES - 1) / LANES; }
    bool volume() const { return s.kz > 1; }
    int planes() const { return volume() ? s.nz : 1; }  // of one task
    long tasks() const { return s.items * (volume() ? 1 : s.nz) * strips(); }
    const complex64* map(long item, int set, int coil, int z, int y, int x) const {
        long m = s.map_items == 1 ? 0 : item;
        return maps + ((((m * s.sets + set) * s.coils + coil) * s.nz + z) * s.ny + y) * s.nx + x;
    }
    const float* weight(long item, int z) const {
        long w = s.weight_items == 1 ? 0 : item;
        return weights + (w * weight_planes + (volume() || weight_planes == 1 ? 0 : z)) * s.ky;
    }
};

struct Task {
    long item;
    int z, x, count;
    Task(const Encoding& e, long number) {
        int strips = e.strips(), slabs = e.volume() ? 1 : e.s.nz;
        x = int(number % strips) * LANES;
        z = int(number / strips % slabs);
        item = number / strips / slabs;
        count = e.s.nx - x < LANES ? e.s.nx - x : LANES;
    }
};

// Through k-space along y alone: rows (ky) in place.
inline void filter_plane(const Encoding& e, const float* w, Row* rows) {
    forward(*e.py, rows);
    for (int p = 0; p < e.s.ky; ++p) {
        float f = w[e.py->frequency[p]];
        rows[p].re *= f, rows[p].im *= f;
    }
    backward(*e.py, rows);
}

// Along y and z: planes (kz, ky) in place; the columns go through `column` (kz), since their stride would otherwise
// map them all to the same part of the cache.
inline void filter_volume(const Encoding& e, const float* w, Row* rows, Row* column) {
    const int ky = e.s.ky, kz = e.s.kz;
    for (int z = 0; z < e.s.nz; ++z) forward(*e.py, rows + long(z) * ky);
    for (int p = 0; p < ky; ++p) {
        const float* f = w + e.py->frequency[p];
        bool empty = true;
        for (int z = 0; z < kz && empty; ++z) empty = f[long(z) * ky] == 0;
        if (empty) {
            for (int z = 0; z < e.s.nz; ++z) rows[long(z) * ky + p] = zero();
            continue;
        }
        for (int z = 0; z < e.s.nz; ++z) column[z] = rows[long(z) * ky + p];
        for (int z = e.s.nz; z < kz; ++z) column[z] = zero();
        forward(*e.pz, column);
        for (int q = 0; q < kz; ++q) {
            float g = f[long(e.pz->frequency[q]) * ky];
            column[q].re *= g, column[q].im *= g;
        }
        backward(*e.pz, column);
        for (int z = 0; z < e.s.nz; ++z) rows[long(z) * ky + p] = column[z];
    }
    for (int z = 0; z < e.s.nz; ++z) backward(*e.py, rows + long(z) * ky);
}

// out = sum_c conj(S_c) F^-1 w F S_c x, x and out (items, sets, nz, ny, nx); w in the FFT's order, scaled.
inline void normal(const Encoding& e, const complex64* x, complex64* out, int threads) {
    const Sizes& s = e.s;
    const long tasks = e.tasks(), planes = e.planes();
#pragma omp parallel num_threads(threads)
    {
        static thread_local Buffer memory;
        const long image = planes * s.ny, k = planes * s.ky;
        Row* given = memory.at_least(2 * s.sets * image + k + s.kz);
        Row *sum = given + s.sets * image, *rows = sum + s.sets * image, *column = rows + k;
#pragma omp for schedule(static)
        for (long number = 0; number < tasks; ++number) {
            Task t(e, number);
            auto voxel = [&](int set, int z, int y) {
                return (((t.item * s.sets + set) * s.nz + t.z + z) * s.ny + y) * s.nx + t.x;
            };
            for (int set = 0; set < s.sets; ++set)
                for (int z = 0; z < planes; ++z)
                    for (int y = 0; y < s.ny; ++y) {
                        long at = (set * planes + z) * s.ny + y;
                        given[at] = load(x + voxel(set, z, y), t.count);
                        sum[at] = zero();
                    }
            for (int c = 0; c < s.coils; ++c) {
                for (int z = 0; z < planes; ++z) {
                    Row* plane = rows + long(z) * s.ky;
                    for (int y = 0; y < s.ny; ++y) {
                        Row v = zero();
                        for (int set = 0; set < s.sets; ++set)
                            add(v, times(load(e.map(t.item, set, c, t.z + z, y, t.x), t.count),
                                         given[(set * planes + z) * s.ny + y]));
                        plane[y] = v;
                    }
                    for (int y = s.ny; y < s.ky; ++y) plane[y] = zero();
                }
                const float* w = e.weight(t.item, t.z);
                if (e.volume()) filter_volume(e, w, rows, column);
                else filter_plane(e, w, rows);
                // The next coil's map is asked for while this one's is in use: strips touch many pages.
                const long ahead = c + 1 < s.coils ? long(s.nz) * s.ny * s.nx : 0;
                for (int set = 0; set < s.sets; ++set)
                    for (int z = 0; z < planes; ++z)
                        for (int y = 0; y < s.ny; ++y) {
                            const complex64* at = e.map(t.item, set, c, t.z + z, y, t.x);
                            for (int line = 0; line < LANES; line += 8) __builtin_prefetch(at + ahead + line);
                            add(sum[(set * planes + z) * s.ny + y],
                                conj_times(load(at, t.count), rows[long(z) * s.ky + y]));
                        }
            }
            for (int set = 0; set < s.sets; ++set)
                for (int z = 0; z < planes; ++z)
                    for (int y = 0; y < s.ny; ++y)
                        store(sum[(set * planes + z) * s.ny + y], out + voxel(set, z, y), t.count);
        }
    }
}

// Index of centred sample n of N in the order of an FFT, and back.
inline int uncentred(int n, int N) { return n >= N / 2 ? n - N / 2 : n - N / 2 + N; }
inline int centred(int f, int N) { return f < N - N / 2 ? f + N / 2 : f + N / 2 - N; }

// y_c = m F(S_c x): y (items, coils, nz, ny, nx), centred; weights centred and scaled; ky = ny, kz = nz or 1.
inline void encode(const Encoding& e, const complex64* x, complex64* y, int threads) {
    const Sizes& s = e.s;
    const long tasks = e.tasks(), planes = e.planes();
#pragma omp parallel num_threads(threads)
    {
        static thread_local Buffer memory;
        Row* rows = memory.at_least(planes * s.ny + s.kz);
        Row* column = rows + planes * s.ny;
#pragma omp for schedule(static)
        for (long number = 0; number < tasks; ++number) {
            Task t(e, number);
            const float* w = e.weight(t.item, t.z);
            for (int c = 0; c < s.coils; ++c) {
                auto sample = [&](int z, int ky) {
                    return (((t.item * s.coils + c) * s.nz + t.z + z) * s.ny + ky) * s.nx + t.x;
                };
                for (int z = 0; z < planes; ++z) {
                    int at = e.volume() ? uncentred(z, s.nz) : 0;
                    for (int n = 0; n < s.ny; ++n) {
                        Row v = zero();
                        for (int set = 0; set < s.sets; ++set)
                            add(v, times(load(e.map(t.item, set, c, t.z + z, n, t.x), t.count),
                                         load(x + (((t.item * s.sets + set) * s.nz + t.z + z) * s.ny + n) * s.nx + t.x,
                                              t.count)));
                        rows[long(at) * s.ny + uncentred(n, s.ny)] = v;
                    }
                    forward(*e.py, rows + long(at) * s.ny);
                }
                for (int p = 0; p < s.ny; ++p) {
                    int ky = centred(e.py->frequency[p], s.ny);
                    if (!e.volume()) {
                        Row v = rows[p];
                        store({v.re * w[ky], v.im * w[ky]}, y + sample(0, ky), t.count);
                        continue;
                    }
                    for (int z = 0; z < s.nz; ++z) column[z] = rows[long(z) * s.ny + p];
                    forward(*e.pz, column);
                    for (int q = 0; q < s.nz; ++q) {
                        int kz = centred(e.pz->frequency[q], s.nz);
                        float f = w[long(kz) * s.ny + ky];
                        store({column[q].re * f, column[q].im * f}, y + sample(kz, ky), t.count);
                    }
                }
            }
        }
    }
}

// x = sum_c conj(S_c) F^-1 (m y_c), the transpose of `encode`.
inline void decode(const Encoding& e, const complex64* y, complex64* x, int threads) {
    const Sizes& s = e.s;
    const long tasks = e.tasks(), planes = e.planes();
#pragma omp parallel num_threads(threads)
    {
        static thread_local Buffer memory;
        const long image = planes * s.ny;
        Row* sum = memory.at_least((s.sets + 1) * image + s.kz);
        Row *rows = sum + s.sets * image, *column = rows + image;
#pragma omp for schedule(static)
        for (long number = 0; number < tasks; ++number) {
            Task t(e, number);
            const float* w = e.weight(t.item, t.z);
            for (long at = 0; at < s.sets * image; ++at) sum[at] = zero();
            for (int c = 0; c < s.coils; ++c) {
                auto weighted = [&](int z, int ky, float f) {
                    if (f == 0) return zero();
                    Row v = load(y + (((t.item * s.coils + c) * s.nz + t.z + z) * s.ny + ky) * s.nx + t.x, t.count);
                    return Row{v.re * f, v.im * f};
                };
                for (int p = 0; p < s.ny; ++p) {
                    int ky = centred(e.py->frequency[p], s.ny);
                    if (!e.volume()) {
                        rows[p] = weighted(0, ky, w[ky]);
                        continue;
                    }
                    for (int q = 0; q < s.nz; ++q) {
                        int kz = centred(e.pz->frequency[q], s.nz);
                        column[q] = weighted(kz, ky, w[long(kz) * s.ny + ky]);
                    }
                    backward(*e.pz, column);
                    for (int z = 0; z < s.nz; ++z) rows[long(z) * s.ny + p] = column[z];
                }
                for (int z = 0; z < planes; ++z) {
                    Row* plane = rows + long(e.volume() ? uncentred(z, s.nz) : 0) * s.ny;
                    backward(*e.py, plane);
                    for (int set = 0; set < s.sets; ++set)
                        for (int n = 0; n < s.ny; ++n)
                            add(sum[(set * planes + z) * s.ny + n],
                                conj_times(load(e.map(t.item, set, c, t.z + z, n, t.x), t.count),
                                           plane[uncentred(n, s.ny)]));
                }
            }
            for (int set = 0; set < s.sets; ++set)
                for (int z = 0; z < planes; ++z)
                    for (int n = 0; n < s.ny; ++n)
                        store(sum[(set * planes + z) * s.ny + n],
                              x + (((t.item * s.sets + set) * s.nz + t.z + z) * s.ny + n) * s.nx + t.x, t.count);
        }
    }
}

}  // namespace recon
