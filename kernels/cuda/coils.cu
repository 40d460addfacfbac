// Operations around the Fourier transforms of whole planes: one coil of one image at a time, so that the coil image
// stays in the second-level cache. Images (set, z, y, x); maps of a coil lie `map_stride` apart from set to set;
// k-space (kz, ky, x) may be longer than the image along z and y.
#include "columns.h"

using recon::Value;

#define EACH(i, count) \
    long long i = blockIdx.x * (long long)(blockDim.x) + threadIdx.x; i < (count); i += (long long)(gridDim.x) * blockDim.x

// k = sum over sets of S x, zero past the image
extern "C" __global__ void coil_expand(const Value* x, const Value* map, Value* k, long long map_stride, int sets, int nz, int ny,
                                       int nx, int kz, int ky) {
    const long long image = (long long)(nz) * ny * nx;
    for (EACH(i, (long long)(kz) * ky * nx)) {
        const int column = int(i % nx), y = int(i / nx % ky), z = int(i / nx / ky);
        Value v = {0, 0};
        if (y < ny && z < nz) {
            const long long at = ((long long)(z) * ny + y) * nx + column;
            for (int set = 0; set < sets; ++set) {
                Value part = recon::times(map[set * map_stride + at], x[set * image + at]);
                v = v + part;
            }
        }
        k[i] = v;
    }
}

// k = w k, w (kz, ky)
extern "C" __global__ void coil_weigh(Value* k, const float* weights, int nx, long long count) {
    for (EACH(i, count)) {
        const float w = weights[i / nx];
        k[i] = {k[i].re * w, k[i].im * w};
    }
}

// out = out + conj(S) k, or conj(S) k for the first coil
extern "C" __global__ void coil_combine(const Value* k, const Value* map, Value* out, long long map_stride, int sets, int nz,
                                        int ny, int nx, int ky, int first) {
    const long long image = (long long)(nz) * ny * nx;
    for (EACH(i, sets * image)) {
        const long long at = i % image;
        const int column = int(at % nx), y = int(at / nx % ny), z = int(at / nx / ny);
        Value v = recon::conj_times(map[i / image * map_stride + at], k[((long long)(z) * ky + y) * nx + column]);
        out[i] = first ? v : out[i] + v;
    }
}
