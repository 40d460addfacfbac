// Multi-coil encoding of Cartesian scans along one or two phase encodes, strip by strip of the readout.
//
// A strip is LANES neighbouring columns of x. It is multiplied by one coil's map, transformed, weighted, transformed
// back and added to the image while it is in the cache; coil images never exist as a whole. Each strip belongs to one
// thread, and coils are added in order: two runs give the same bits.
#pragma once

#include <algorithm>

#include "line.h"

namespace recon {

// Sizes of one problem; ky and kz are the lengths of the transforms, at least ny and nz. kz = 1 does not transform z.
struct Sizes {
    long items, map_items, weight_items;
    int sets, coils, nz, ny, nx, kz, ky;
};

struct Encoding {
    const Sizes s;
    const complex64* maps;   // (map_items, sets, coils, nz, ny, nx)
    const float* weights;  // (weight_items, wz, ky): wz is kz, or for kz = 1 it is 1 or nz
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

// The weights of a task in the order of the transforms' frequencies: (ky), or for a volume (ky, kz).
inline void sort_weights(const Encoding& e, const float* w, float* to) {
    for (int p = 0; p < e.s.ky; ++p)
        for (int q = 0; q < e.s.kz; ++q)
            to[long(p) * e.s.kz + q] = w[long(e.pz->frequency[q]) * e.s.ky + e.py->frequency[p]];
}

// Along y and z, from in(z, y) to out(z, y, value), planes (kz, ky) in `rows`. The columns are copied through `column`
// (kz), because their stride would map them all to the same part of the cache.
template <class In, class Out>
inline void filter_volume(const Encoding& e, const float* w, Row* rows, Row* column, In in, Out out) {
    const int ky = e.s.ky, kz = e.s.kz, nz = e.s.nz, passes = int(e.py->passes.size());
    for (int z = 0; z < nz; ++z) forward(*e.py, passes, rows + long(z) * ky, [=](int y) { return in(z, y); });
    for (int p = 0; p < ky; ++p) {
        const float* f = w + long(p) * kz;
        Row* at = rows + p;
        if (std::all_of(f, f + kz, [](float g) { return g == 0; }))
            for (int z = 0; z < nz; ++z) at[long(z) * ky] = zero();
        else
            filter(
                *e.pz, f, column, [=](int z) { return z < nz ? at[long(z) * ky] : zero(); },
                [=](int z, Row v) { if (z < nz) at[long(z) * ky] = v; }, [](int) {});
    }
    for (int z = 0; z < nz; ++z)
        backward(*e.py, passes, rows + long(z) * ky, [=](int y, Row v) { out(z, y, v); });
}

struct Parts {  // of a thread's room: images (set, plane, ny) before and after, one coil's rows and one column
    Row *given, *sum, *rows, *column;
    float* weights;
};

// One strip of `normal`; `count` and `sets` are numbers, or the constants LANES and 1, which saves tests in every row.
template <class Count, class Sets>
inline void normal_strip(const Encoding& e, const complex64* x, complex64* out, const Task& t, Count count, Sets sets,
                         Parts room) {
    const Sizes& s = e.s;
    const int planes = e.planes(), ny = s.ny;
    const long nx = s.nx, plane = nx * ny, image = long(planes) * ny;
    const long coil = s.nz * plane, set_of_maps = s.coils * coil;
    const long first = (t.item * sets * s.nz + t.z) * plane + t.x;
    Row *given = room.given, *sum = room.sum;
    auto each = [&](auto call) {
        for (int set = 0; set < sets; ++set)
            for (int z = 0; z < planes; ++z)
                for (int y = 0; y < ny; ++y)
                    call(set * image + long(z) * ny + y, first + set * coil + z * plane + y * nx);
    };
    each([&](long at, long voxel) { given[at] = take_columns(x + voxel, count), sum[at] = zero(); });
    for (int c = 0; c < s.coils; ++c) {
        const complex64* map = e.map(t.item, 0, c, t.z, 0, t.x);
        auto in = [=](int z, int y) {
            if (y >= ny) return zero();
            const complex64* at = map + z * plane + y * nx;
            const Row* from = given + long(z) * ny + y;
            Row v = times(take_columns(at, count), from[0]);
            for (int set = 1; set < sets; ++set)
                add(v, times(take_columns(at + set * set_of_maps, count), from[set * image]));
            return v;
        };
        auto back = [=](int z, int y, Row v) {
            if (y >= ny) return;
            const complex64* at = map + z * plane + y * nx;
            Row* to = sum + long(z) * ny + y;
            for (int set = 0; set < sets; ++set)
                add(to[set * image], conj_times(take_columns(at + set * set_of_maps, count), v));
        };
        // The next coil's map is prefetched while this one's is in use: strips touch many pages.
        const complex64* next = map + (c + 1 < s.coils ? coil : 0);
        auto ahead = [=](int y) {
            if (y < ny)
                for (int line = 0; line < LANES; line += 8) __builtin_prefetch(next + y * nx + line);
        };
        if (e.volume()) filter_volume(e, room.weights, room.rows, room.column, in, back);
        else
            filter(
                *e.py, room.weights, room.rows, [=](int y) { return in(0, y); },
                [=](int y, Row v) { back(0, y, v); }, ahead);
    }
    each([&](long at, long voxel) { put_columns(sum[at], out + voxel, count); });
}

// out = sum_c conj(S_c) F^-1 w F S_c x, x and out (items, sets, nz, ny, nx); w in the FFT's order, scaled.
inline void normal(const Encoding& e, const complex64* x, complex64* out, int threads) {
    const Sizes& s = e.s;
    const long tasks = e.tasks(), planes = e.planes();
    const long image = s.sets * planes * s.ny, k = planes * s.ky;
    const long weights = (long(s.ky) * s.kz + 2 * LANES - 1) / (2 * LANES);  // in rows
    const Room memory(threads, 2 * image + k + s.kz + weights);
#pragma omp parallel num_threads(threads)
    {
        Parts room;
        room.given = memory.own();
        room.sum = room.given + image, room.rows = room.sum + image, room.column = room.rows + k;
        room.weights = reinterpret_cast<float*>(room.column + s.kz);
        const float* sorted = nullptr;  // the strips of a plane, and planes and items with one mask, share their weights
#pragma omp for schedule(static)
        for (long number = 0; number < tasks; ++number) {
            Task t(e, number);
            const float* w = e.weight(t.item, t.z);
            if (w != sorted) sort_weights(e, w, room.weights), sorted = w;
            if (t.count == LANES && s.sets == 1)
                normal_strip(e, x, out, t, std::integral_constant<int, LANES>(), std::integral_constant<int, 1>(), room);
            else normal_strip(e, x, out, t, t.count, s.sets, room);
        }
    }
}

// y_c = m F(S_c x): y (items, coils, nz, ny, nx), centred; weights centred and scaled; ky = ny, kz = nz or 1.
inline void encode(const Encoding& e, const complex64* x, complex64* y, int threads) {
    const Sizes& s = e.s;
    const auto along_y = line(s.ky), along_z = line(s.kz);
    const long tasks = e.tasks(), planes = e.planes(), plane = long(s.ny) * s.nx, coil = s.nz * plane;
    const long length = std::max(along_y->room(), along_z->room()), whole = e.volume() ? planes * s.ny : 0;
    const Room memory(threads, whole + length);
#pragma omp parallel num_threads(threads)
    {
        Row *rows = memory.own(), *work = rows + whole;
#pragma omp for schedule(static)
        for (long number = 0; number < tasks; ++number) {
            const Task t(e, number);
            const float* w = e.weight(t.item, t.z);
            const complex64* image = x + (t.item * s.sets * s.nz + t.z) * plane + t.x;
            for (int c = 0; c < s.coils; ++c) {
                complex64* samples = y + ((t.item * s.coils + c) * s.nz + t.z) * plane + t.x;
                auto put = [=](int kz, int ky, Row v) {
                    const float f = w[long(kz) * s.ny + ky];
                    put_columns({v.re * f, v.im * f}, samples + kz * plane + long(ky) * s.nx, t.count);
                };
                for (int z = 0; z < planes; ++z) {
                    auto in = [=, &e](int n) {
                        Row v = zero();
                        for (int set = 0; set < s.sets; ++set)
                            add(v, times(take_columns(e.map(t.item, set, c, t.z + z, n, t.x), t.count),
                                         take_columns(image + set * coil + z * plane + long(n) * s.nx, t.count)));
                        return v;
                    };
                    if (e.volume())
                        transform<-1>(*along_y, work, in, [=](int ky, Row v) { rows[long(z) * s.ny + ky] = v; });
                    else transform<-1>(*along_y, work, in, [=](int ky, Row v) { put(0, ky, v); });
                }
                for (int ky = 0; ky < s.ny && e.volume(); ++ky)
                    transform<-1>(
                        *along_z, work, [=](int z) { return rows[long(z) * s.ny + ky]; },
                        [=](int kz, Row v) { put(kz, ky, v); });
            }
        }
    }
}

// x = sum_c conj(S_c) F^-1 (m y_c), the transpose of `encode`.
inline void decode(const Encoding& e, const complex64* y, complex64* x, int threads) {
    const Sizes& s = e.s;
    const auto along_y = line(s.ky), along_z = line(s.kz);
    const long tasks = e.tasks(), planes = e.planes(), plane = long(s.ny) * s.nx, image = planes * s.ny;
    const long length = std::max(along_y->room(), along_z->room()), whole = e.volume() ? image : 0;
    const Room memory(threads, s.sets * image + whole + length);
#pragma omp parallel num_threads(threads)
    {
        Row* sum = memory.own();
        Row *rows = sum + s.sets * image, *work = rows + whole;
#pragma omp for schedule(static)
        for (long number = 0; number < tasks; ++number) {
            const Task t(e, number);
            const float* w = e.weight(t.item, t.z);
            std::fill(sum, sum + s.sets * image, zero());
            for (int c = 0; c < s.coils; ++c) {
                const complex64* samples = y + ((t.item * s.coils + c) * s.nz + t.z) * plane + t.x;
                auto weighted = [=](int kz, int ky) {
                    const float f = w[long(kz) * s.ny + ky];
                    if (f == 0) return zero();
                    const Row v = take_columns(samples + kz * plane + long(ky) * s.nx, t.count);
                    return Row{v.re * f, v.im * f};
                };
                for (int ky = 0; ky < s.ny && e.volume(); ++ky)
                    transform<1>(
                        *along_z, work, [=](int kz) { return weighted(kz, ky); },
                        [=](int z, Row v) { rows[long(z) * s.ny + ky] = v; });
                for (int z = 0; z < planes; ++z) {
                    auto out = [=, &e](int n, Row v) {
                        for (int set = 0; set < s.sets; ++set)
                            add(sum[(set * planes + z) * s.ny + n],
                                conj_times(take_columns(e.map(t.item, set, c, t.z + z, n, t.x), t.count), v));
                    };
                    if (e.volume())
                        transform<1>(*along_y, work, [=](int ky) { return rows[long(z) * s.ny + ky]; }, out);
                    else transform<1>(*along_y, work, [=](int ky) { return weighted(0, ky); }, out);
                }
            }
            for (int set = 0; set < s.sets; ++set)
                for (int z = 0; z < planes; ++z)
                    for (int n = 0; n < s.ny; ++n)
                        put_columns(sum[(set * planes + z) * s.ny + n],
                              x + (((t.item * s.sets + set) * s.nz + t.z + z) * s.ny + n) * s.nx + t.x, t.count);
        }
    }
}

}  // namespace recon
