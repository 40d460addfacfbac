// X-ray projection on CUDA: one thread a ray, or one thread a pixel. Sums are gathered in a fixed order, without atomics.
// `rays` (view, detector), `views` (view), images (item, row, column), sinograms (item, view, detector).
#include "../shared/projector.h"

using recon::Detector;
using recon::Grid;
using recon::Ray;
using recon::View;

template <class T>
__device__ void project(const T* image, const Ray<T>* rays, Grid g, long items, T* sinogram) {
    const long count = long(g.views) * g.detectors, at = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= items * count) return;
    sinogram[at] = recon::project(rays[at % count], image + at / count * g.rows * g.columns, g);
}

// Neighbouring threads are neighbouring columns: they read neighbouring rays.
template <class T, bool exact>
__device__ void backproject(const T* sinogram, const Ray<T>* rays, const View<T>* views, Detector<T> d, Grid g, long items,
                            T* image) {
    const long count = long(g.rows) * g.columns, at = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= items * count) return;
    const int row = int(at % count / g.columns), column = int(at % g.columns);
    const T* values = sinogram + at / count * g.views * g.detectors;
    T sum = 0;
    for (int v = 0; v < g.views; ++v, values += g.detectors)
        sum += exact ? recon::gather(views[v], d, rays + long(v) * g.detectors, values, g, row, column)
                     : recon::smear(views[v], d, values, g, row, column);
    image[at] = sum;
}

#define RECON_PROJECTOR(T)                                                                                                \
    extern "C" __global__ void xray_project_##T(const T* image, const Ray<T>* rays, Grid g, long items, T* sinogram) {    \
        project<T>(image, rays, g, items, sinogram);                                                                      \
    }                                                                                                                     \
    extern "C" __global__ void xray_adjoint_##T(const T* sinogram, const Ray<T>* rays, const View<T>* views,              \
                                                Detector<T> d, Grid g, long items, T* image) {                            \
        backproject<T, true>(sinogram, rays, views, d, g, items, image);                                                  \
    }                                                                                                                     \
    extern "C" __global__ void xray_smear_##T(const T* sinogram, const View<T>* views, Detector<T> d, Grid g, long items, \
                                              T* image) {                                                                 \
        backproject<T, false>(sinogram, nullptr, views, d, g, items, image);                                              \
    }

RECON_PROJECTOR(float)
RECON_PROJECTOR(double)
