// Cone-beam projection: a thread follows a few rays of one detector column, or sums a few voxels of one column. Sums
// are gathered in a fixed order, without atomics. Volumes (item, slice, row, column), sinograms (item, row, view,
// column), `tracks` (view, column), `views` (view), all contiguous; `frame` holds the numbers of Detector and Tower.
#include "../shared/cone.h"

using recon::Detector;
using recon::Panel;
using recon::Tower;
using recon::Track;
using recon::View;
using recon::Volume;

#define TOGETHER 4

template <class T>
__device__ Detector<T> detector(const T* f) {
    return {recon::FLAT, f[0], f[1], f[2]};
}

template <class T>
__device__ Tower<T> tower(const T* f) {
    return {f[3], f[4], f[5], f[6]};
}

// Neighbouring threads are neighbouring columns of the detector.
template <class T>
__device__ void project_all(const T* volume, const Track<T>* tracks, T* sinogram, Tower<T> s, Volume v, Panel p,
                            long long items) {
    const long plane = long(v.rows) * v.columns, rays = long(p.views) * p.columns;
    const int groups = (p.rows + TOGETHER - 1) / TOGETHER;
    const long long all = items * groups * rays;
    for (long long i = blockIdx.x * (long long)(blockDim.x) + threadIdx.x; i < all; i += (long long)(gridDim.x) * blockDim.x) {
        const long ray = i % rays;
        const int first = int(i / rays % groups) * TOGETHER;
        const long long item = i / rays / groups;
        T sums[TOGETHER];
        recon::project<TOGETHER>(tracks[ray], s, volume + item * plane * v.slices, v, plane, v.columns, 1, first, sums);
        for (int n = 0; n < TOGETHER; ++n)
            if (first + n < p.rows) sinogram[(item * p.rows + first + n) * rays + ray] = sums[n];
    }
}

// Neighbouring threads are neighbouring columns of the image; Add adds one view to the sums.
template <class T, class Add>
__device__ void sum_all(const T* sinogram, T* volume, Volume v, Panel p, long long items, Add add) {
    const long plane = long(v.rows) * v.columns, rays = long(p.views) * p.columns;
    const int groups = (v.slices + TOGETHER - 1) / TOGETHER;
    const long long all = items * groups * plane;
    for (long long i = blockIdx.x * (long long)(blockDim.x) + threadIdx.x; i < all; i += (long long)(gridDim.x) * blockDim.x) {
        const long place = i % plane;
        const int first = int(i / plane % groups) * TOGETHER;
        const int count = v.slices - first < TOGETHER ? v.slices - first : TOGETHER;
        const long long item = i / plane / groups;
        T sums[TOGETHER] = {0, 0, 0, 0};
        for (int n = 0; n < p.views; ++n)
            add(n, sinogram + item * p.rows * rays + long(n) * p.columns, int(place / v.columns), int(place % v.columns),
                first, count, sums);
        for (int n = 0; n < count; ++n) volume[(item * v.slices + first + n) * plane + place] = sums[n];
    }
}

template <class T>
struct Gather {
    const Track<T>* tracks;
    const View<T>* views;
    Detector<T> d;
    Tower<T> s;
    Panel p;
    __device__ void operator()(int n, const T* values, int row, int column, int first, int count, T* sums) const {
        recon::gather(views[n], d, tracks + long(n) * p.columns, s, values, long(p.views) * p.columns, 1, p, row, column,
                      first, count, sums);
    }
};

template <class T>
struct Smear {
    const View<T>* views;
    Detector<T> d;
    Tower<T> s;
    Panel p;
    __device__ void operator()(int n, const T* values, int row, int column, int first, int count, T* sums) const {
        recon::smear(views[n], d, s, values, long(p.views) * p.columns, 1, p, row, column, first, count, sums);
    }
};

extern "C" __global__ void cone_project(const float* volume, const Track<float>* tracks, float* sinogram, const float* frame,
                                        int slices, int rows, int columns, int panel_rows, int views, int panel_columns,
                                        long long items) {
    project_all(volume, tracks, sinogram, tower(frame), {slices, rows, columns}, {panel_rows, views, panel_columns}, items);
}

extern "C" __global__ void cone_adjoint(const float* sinogram, const Track<float>* tracks, const View<float>* views,
                                        float* volume, const float* frame, int slices, int rows, int columns, int panel_rows,
                                        int count, int panel_columns, long long items) {
    const Volume v{slices, rows, columns};
    const Panel p{panel_rows, count, panel_columns};
    sum_all(sinogram, volume, v, p, items, Gather<float>{tracks, views, detector(frame), tower(frame), p});
}

extern "C" __global__ void cone_smear(const float* sinogram, const View<float>* views, float* volume, const float* frame,
                                      int slices, int rows, int columns, int panel_rows, int count, int panel_columns,
                                      long long items) {
    const Panel p{panel_rows, count, panel_columns};
    sum_all(sinogram, volume, Volume{slices, rows, columns}, p, items,
            Smear<float>{views, detector(frame), tower(frame), p});
}

extern "C" __global__ void cone_project_double(const double* volume, const Track<double>* tracks, double* sinogram, const double* frame,
                                        int slices, int rows, int columns, int panel_rows, int views, int panel_columns,
                                        long long items) {
    project_all(volume, tracks, sinogram, tower(frame), {slices, rows, columns}, {panel_rows, views, panel_columns}, items);
}

extern "C" __global__ void cone_adjoint_double(const double* sinogram, const Track<double>* tracks, const View<double>* views,
                                        double* volume, const double* frame, int slices, int rows, int columns, int panel_rows,
                                        int count, int panel_columns, long long items) {
    const Volume v{slices, rows, columns};
    const Panel p{panel_rows, count, panel_columns};
    sum_all(sinogram, volume, v, p, items, Gather<double>{tracks, views, detector(frame), tower(frame), p});
}

extern "C" __global__ void cone_smear_double(const double* sinogram, const View<double>* views, double* volume, const double* frame,
                                      int slices, int rows, int columns, int panel_rows, int count, int panel_columns,
                                      long long items) {
    const Panel p{panel_rows, count, panel_columns};
    sum_all(sinogram, volume, Volume{slices, rows, columns}, p, items,
            Smear<double>{views, detector(frame), tower(frame), p});
}
