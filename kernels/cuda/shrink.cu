// Shrinkage of complex values in place: x max(0, 1 - (threshold / |x|)^exponent). The arithmetic is shared/shrink.h.
#include "columns.h"

#include "../shared/shrink.h"

using recon::Power;
using recon::Value;

template <Power power>
__device__ void shrink_all(Value* x, float threshold, float exponent, long long count) {
    for (long long i = blockIdx.x * (long long)(blockDim.x) + threadIdx.x; i < count; i += (long long)(gridDim.x) * blockDim.x) {
        const Value v = x[i];
        const float f = recon::shrink_factor<power>(v.re * v.re + v.im * v.im, threshold, exponent);
        x[i] = {v.re * f, v.im * f};
    }
}

extern "C" __global__ void shrink(Value* x, const float* limit, float exponent, long long count) {
    const float threshold = *limit;
    if (exponent == 1) shrink_all<Power::one>(x, threshold, exponent, count);
    else if (exponent == 1.5f) shrink_all<Power::three_halves>(x, threshold, exponent, count);
    else if (exponent == 2) shrink_all<Power::two>(x, threshold, exponent, count);
    else shrink_all<Power::any>(x, threshold, exponent, count);
}
