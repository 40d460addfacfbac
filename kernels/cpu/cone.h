// Cone-beam projection on the CPU: the rays of one detector column, or the voxels of one place in the plane, go through
// together, on copies in which they are neighbours in memory. Each is summed by one thread in a fixed order: the bits
// depend neither on threads nor on the batch.
#pragma once

#include <algorithm>
#include <vector>

#include "../shared/cone.h"
#include "columns.h"

namespace recon {

constexpr int TOGETHER = 16;  // rays of a column that are followed at a time

// b(i, k) = a(k, i): `deep` planes of `count` values each become `count` columns.
template <class T>
inline void stand(const T* a, long deep, long count, T* b, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < (count + 63) / 64; ++block)
        for (long k = 0; k < deep; ++k)
            for (long i = block * 64; i < std::min(count, block * 64 + 64); ++i) b[i * deep + k] = a[k * count + i];
}

template <class T>
inline void cone_project(const T* volume, const Track<T>* tracks, const Tower<T>& s, const Volume& v, const Panel& panel,
                         long items, T* out, int threads) {
    const long plane = long(v.rows) * v.columns, rays = long(panel.views) * panel.columns;
    std::vector<T> standing(plane * v.slices);
    for (long item = 0; item < items; ++item) {
        stand(volume + item * plane * v.slices, v.slices, plane, standing.data(), threads);
        T* to = out + item * panel.rows * rays;
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
        for (long ray = 0; ray < rays; ++ray)
            for (int first = 0; first < panel.rows; first += TOGETHER) {
                T sums[TOGETHER];
                project<TOGETHER>(tracks[ray], s, standing.data(), v, 1, long(v.columns) * v.slices, v.slices, first, sums);
                for (int n = 0; n < TOGETHER && first + n < panel.rows; ++n) to[(first + n) * rays + ray] = sums[n];
            }
    }
}

// Calls add(view, its values, row, column, sums) for every place in the plane and every view.
template <class T, class Add>
inline void columns_of_voxels(const T* sinograms, const Volume& v, const Panel& panel, long items, T* volume, int threads,
                              Add add) {
    const long plane = long(v.rows) * v.columns, rays = long(panel.views) * panel.columns;
    std::vector<T> standing(rays * panel.rows);
    // A row of the image at a time, one view after the other: what a view holds stays in the cache
    const size_t count = size_t(v.columns) * v.slices;
    const Room memory(threads, count * sizeof(T) / sizeof(Row) + 1);
    for (long item = 0; item < items; ++item) {
        stand(sinograms + item * panel.rows * rays, panel.rows, rays, standing.data(), threads);
        T* to = volume + item * v.slices * plane;
#pragma omp parallel num_threads(threads)
        {
            T* sums = reinterpret_cast<T*>(memory.own());
#pragma omp for schedule(dynamic, 1)
            for (int row = 0; row < v.rows; ++row) {
                std::fill(sums, sums + count, T(0));
                for (int n = 0; n < panel.views; ++n)
                    for (int column = 0; column < v.columns; ++column)
                        add(n, standing.data() + long(n) * panel.columns * panel.rows, row, column,
                            &sums[long(column) * v.slices]);
                for (int k = 0; k < v.slices; ++k)
                    for (int column = 0; column < v.columns; ++column)
                        to[k * plane + long(row) * v.columns + column] = sums[long(column) * v.slices + k];
            }
        }
    }
}

template <class T>
inline void cone_adjoint(const T* sinograms, const Track<T>* tracks, const View<T>* views, const Detector<T>& d,
                         const Tower<T>& s, const Volume& v, const Panel& panel, long items, T* volume, int threads) {
    columns_of_voxels(sinograms, v, panel, items, volume, threads, [&](int n, const T* values, int row, int column, T* sums) {
        gather(views[n], d, tracks + long(n) * panel.columns, s, values, 1, panel.rows, panel, row, column, 0, v.slices,
               sums);
    });
}

template <class T>
inline void cone_smear(const T* sinograms, const View<T>* views, const Detector<T>& d, const Tower<T>& s, const Volume& v,
                       const Panel& panel, long items, T* volume, int threads) {
    columns_of_voxels(sinograms, v, panel, items, volume, threads, [&](int n, const T* values, int row, int column, T* sums) {
        smear(views[n], d, s, values, 1, panel.rows, panel, row, column, 0, v.slices, sums);
    });
}

}  // namespace recon
