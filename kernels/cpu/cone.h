// Cone-beam projection on the CPU: the rays of one detector column, or the voxels at one position in the plane, are
// processed together, on copies in which they are adjacent in memory. Each sum is computed by one thread in a fixed
// order, so the bits do not depend on threads or on the batch.
#pragma once

#include <algorithm>
#include <vector>

#include "columns.h"
#include "cone_lanes.h"

namespace recon {

// Columns stored one after the other, with padding around them.
template <class T>
struct Standing {
    std::vector<T> values;
    explicit Standing(long count) : values(count + 2 * SLACK) {}
    T* data() { return values.data() + SLACK; }
};

// b(i, k) = a(k, i): `deep` planes of `count` values each become `count` columns.
template <class T>
inline void stand(const T* a, long deep, long count, T* b, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < (count + 63) / 64; ++block)
        for (long k = 0; k < deep; ++k)
            for (long i = block * 64; i < std::min(count, block * 64 + 64); ++i) b[i * deep + k] = a[k * count + i];
}

// In double precision without vectors.
inline void follow(const Track<double>& t, const Tower<double>& s, const double* standing, const Volume& v, int rows,
                   double* out, long next) {
    for (int first = 0; first < rows; first += RAYS) {
        double sums[RAYS];
        project<RAYS>(t, s, standing, v, 1, long(v.columns) * v.slices, v.slices, first, sums);
        for (int n = 0; n < RAYS && first + n < rows; ++n) out[(first + n) * next] = sums[n];
    }
}

inline void gather_standing(const View<double>& view, const Detector<double>& d, const Track<double>* tracks,
                            const Tower<double>& s, const double* values, const Panel& panel, int row, int column,
                            int slices, double* sums) {
    gather(view, d, tracks, s, values, 1, panel.rows, panel, row, column, 0, slices, sums);
}

inline void smear_standing(const View<double>& view, const Detector<double>& d, const Tower<double>& s, const double* values,
                           const Panel& panel, int row, int column, int slices, double* sums) {
    smear(view, d, s, values, 1, panel.rows, panel, row, column, 0, slices, sums);
}

template <class T>
inline void cone_project(const T* volume, const Track<T>* tracks, const Tower<T>& s, const Volume& v, const Panel& panel,
                         long items, T* out, int threads) {
    const long plane = long(v.rows) * v.columns, rays = long(panel.views) * panel.columns;
    Standing<T> standing(plane * v.slices);
    for (long item = 0; item < items; ++item) {
        stand(volume + item * plane * v.slices, v.slices, plane, standing.data(), threads);
        T* to = out + item * panel.rows * rays;
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
        for (long ray = 0; ray < rays; ++ray) follow(tracks[ray], s, standing.data(), v, panel.rows, to + ray, rays);
    }
}

// Calls add(view, its values, row, column, sums) for every position in the plane and every view.
template <class T, class Add>
inline void columns_of_voxels(const T* sinograms, const Volume& v, const Panel& panel, long items, T* volume, int threads,
                              Add add) {
    const long plane = long(v.rows) * v.columns, rays = long(panel.views) * panel.columns;
    Standing<T> standing(rays * panel.rows);
    // One row of the image at a time, view after view, so that a view's data stay in the cache
    const long tall = (v.slices + LANES - 1) / LANES * LANES;
    const size_t count = size_t(v.columns) * tall;
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
                            &sums[column * tall]);
                for (int k = 0; k < v.slices; ++k)
                    for (int column = 0; column < v.columns; ++column)
                        to[k * plane + long(row) * v.columns + column] = sums[column * tall + k];
            }
        }
    }
}

template <class T>
inline void cone_adjoint(const T* sinograms, const Track<T>* tracks, const View<T>* views, const Detector<T>& d,
                         const Tower<T>& s, const Volume& v, const Panel& panel, long items, T* volume, int threads) {
    columns_of_voxels(sinograms, v, panel, items, volume, threads, [&](int n, const T* values, int row, int column, T* sums) {
        gather_standing(views[n], d, tracks + long(n) * panel.columns, s, values, panel, row, column, v.slices, sums);
    });
}

template <class T>
inline void cone_smear(const T* sinograms, const View<T>* views, const Detector<T>& d, const Tower<T>& s, const Volume& v,
                       const Panel& panel, long items, T* volume, int threads) {
    columns_of_voxels(sinograms, v, panel, items, volume, threads, [&](int n, const T* values, int row, int column, T* sums) {
        smear_standing(views[n], d, s, values, panel, row, column, v.slices, sums);
    });
}

}  // namespace recon
