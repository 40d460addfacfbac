// Sensitivity maps as dominant eigenvectors of one Hermitian matrix per pixel: power iterations, one thread per column,
// which proceeds down a few rows from the vector of the row above. The arithmetic is in shared/eigen.h; matrix and
// vectors of a thread lie in shared memory, at an odd distance from those of its neighbour.
#include "columns.h"

#include "../shared/eigen.h"

using recon::Value;

// input: kernels (z, y, lag, entry), waves (x, lag), reference and start (coil); output: maps (coil, z, y, x), coils
// `coil_stride` apart, and values (z, y, x). Values are negative where `iterations` did not suffice.
extern "C" __global__ void eigenmaps(const float* kernels, const Value* waves, const Value* reference, const Value* start,
                                     Value* maps, float* values, int coils, int lags, int nz, int ny, int nx,
                                     long long coil_stride, float least, float tolerance, int iterations, int rows) {
    extern __shared__ double shared_memory[];
    const int entries = coils * (coils + 1) / 2, strips = (nx + blockDim.x - 1) / blockDim.x;
    const int segments = (ny + rows - 1) / rows;
    const int x = int(blockIdx.x % strips) * blockDim.x + threadIdx.x;
    const int from = int(blockIdx.x / strips % segments) * rows, z = int(blockIdx.x / strips / segments);
    if (x >= nx) return;

    Value* wave = reinterpret_cast<Value*>(shared_memory) + threadIdx.x * ((lags + entries + 2 * coils) | 1);
    Value *G = wave + lags, *v = G + entries, *y = v + coils;
    for (int lag = 0; lag < lags; ++lag) wave[lag] = waves[(long long)(x) * lags + lag];
    for (int c = 0; c < coils; ++c) v[c] = reference[c];

    for (int row = from; row < from + rows && row < ny; ++row) {
        const long long plane = (long long)(z) * ny + row, pixel = plane * nx + x;
        recon::pixel_matrix(kernels + 2 * plane * lags * entries, wave, lags, entries, G);
        const float bound = recon::frobenius2(G, coils);
        for (int c = 0; c < coils; ++c) v[c] = v[c] + Value{start[c].re * 0.1f, start[c].im * 0.1f};
        float value = 0, size;
        bool there = false;
        for (int k = 0; k < iterations && !there; ++k) {
            size = recon::norm2(v, coils);
            const float scale = size > 1e-30f ? 1 / sqrtf(size) : 0;
            for (int c = 0; c < coils; ++c) v[c] = {v[c].re * scale, v[c].im * scale};
            recon::hermitian_times(G, v, y, coils);
            value = recon::inner(v, y, coils);
            // |y - rho v|^2 = |y|^2 - rho^2 loses all digits when it is small: subtract first.
            float wrong = 0;
            for (int c = 0; c < coils; ++c) {
                const float re = y[c].re - value * v[c].re, im = y[c].im - value * v[c].im;
                wrong += re * re + im * im;
            }
            const float limit = tolerance * value;
            there = (k > 0 && wrong <= limit * limit) || bound < least * least ||
                    (k > 7 && value + 2 * sqrtf(wrong) < least);
            if (!there)
                for (int c = 0; c < coils; ++c) v[c] = y[c];
        }
        // The phase that makes the component along the reference real and positive, and unit length.
        Value along = {0, 0};
        for (int c = 0; c < coils; ++c) along = along + recon::conj_product(reference[c], v[c]);
        const float length = sqrtf(along.re * along.re + along.im * along.im);
        along = length > 0 ? Value{along.re / length, -along.im / length} : Value{1, 0};
        size = recon::norm2(v, coils);
        const float scale = size > 1e-30f ? 1 / sqrtf(size) : 0;
        for (int c = 0; c < coils; ++c) {
            Value turned = recon::product(v[c], along);
            v[c] = {turned.re * scale, turned.im * scale};
            maps[c * coil_stride + pixel] = v[c];
        }
        values[pixel] = there ? value : -value;
    }
}
