// X-ray projection: one thread per ray, or one thread per pixel. Sums are gathered in a fixed order, without atomics.
// `rays` (view, detector), `views` (view), images (item, row, column), sinograms (item, view, detector), all
// contiguous.
#include "../shared/projector.h"

using recon::Detector;
using recon::Grid;
using recon::Ray;
using recon::View;

template <class T>
__device__ void project_all(const T* image, const Ray<T>* rays, T* sinogram, Grid g, long long items) {
    const long long count = (long long)(g.views) * g.detectors, all = items * count;
    for (long long i = blockIdx.x * (long long)(blockDim.x) + threadIdx.x; i < all; i += (long long)(gridDim.x) * blockDim.x)
        sinogram[i] = recon::project(rays[i % count], image + i / count * g.rows * g.columns, g);
}

// Neighbouring threads are neighbouring columns: they read neighbouring rays.
template <class T>
__device__ void gather_all(const T* sinogram, const Ray<T>* rays, const View<T>* views, T* image, Detector<T> d, Grid g,
                           long long items) {
    const long long count = (long long)(g.rows) * g.columns, all = items * count;
    for (long long i = blockIdx.x * (long long)(blockDim.x) + threadIdx.x; i < all; i += (long long)(gridDim.x) * blockDim.x) {
        const T* values = sinogram + i / count * g.views * g.detectors;
        T sum = 0;
        for (int v = 0; v < g.views; ++v, values += g.detectors, rays += g.detectors)
            sum += recon::gather(views[v], d, rays, values, g, int(i % count / g.columns), int(i % g.columns));
        rays -= (long long)(g.views) * g.detectors;
        image[i] = sum;
    }
}

template <class T>
__device__ void smear_all(const T* sinogram, const View<T>* views, T* image, Detector<T> d, Grid g, long long items) {
    const long long count = (long long)(g.rows) * g.columns, all = items * count;
    for (long long i = blockIdx.x * (long long)(blockDim.x) + threadIdx.x; i < all; i += (long long)(gridDim.x) * blockDim.x) {
        const T* values = sinogram + i / count * g.views * g.detectors;
        T sum = 0;
        for (int v = 0; v < g.views; ++v, values += g.detectors)
            sum += recon::smear(views[v], d, values, g, int(i % count / g.columns), int(i % g.columns));
        image[i] = sum;
    }
}

extern "C" __global__ void xray_project(const float* image, const Ray<float>* rays, float* sinogram, int rows, int columns,
                                        int views, int detectors, long long items) {
    project_all(image, rays, sinogram, {rows, columns, views, detectors}, items);
}

extern "C" __global__ void xray_project_double(const double* image, const Ray<double>* rays, double* sinogram, int rows,
                                               int columns, int views, int detectors, long long items) {
    project_all(image, rays, sinogram, {rows, columns, views, detectors}, items);
}

extern "C" __global__ void xray_adjoint(const float* sinogram, const Ray<float>* rays, const View<float>* views, float* image,
                                        int beam, float centre, float per, float margin, int rows, int columns, int count,
                                        int detectors, long long items) {
    gather_all(sinogram, rays, views, image, {beam, centre, per, margin}, {rows, columns, count, detectors}, items);
}

extern "C" __global__ void xray_adjoint_double(const double* sinogram, const Ray<double>* rays, const View<double>* views,
                                               double* image, int beam, double centre, double per, double margin, int rows,
                                               int columns, int count, int detectors, long long items) {
    gather_all(sinogram, rays, views, image, {beam, centre, per, margin}, {rows, columns, count, detectors}, items);
}

extern "C" __global__ void xray_smear(const float* sinogram, const View<float>* views, float* image, int beam, float centre,
                                      float per, float margin, int rows, int columns, int count, int detectors,
                                      long long items) {
    smear_all(sinogram, views, image, {beam, centre, per, margin}, {rows, columns, count, detectors}, items);
}

extern "C" __global__ void xray_smear_double(const double* sinogram, const View<double>* views, double* image, int beam,
                                             double centre, double per, double margin, int rows, int columns, int count,
                                             int detectors, long long items) {
    smear_all(sinogram, views, image, {beam, centre, per, margin}, {rows, columns, count, detectors}, items);
}
