// Shrinkage of complex values in place: x max(0, 1 - (threshold / |x|)^exponent). The arithmetic is shared/shrink.h.
#include "columns.h"

#include "../shared/shrink.h"

using recon::Power;
using recon::Value;

template <Power power>
__device__ void shrink_all(Value* x, float inverse, float exponent, long long count) {
    for (long long i = blockIdx.x * (long long)(blockDim.x) + threadIdx.x; i < count; i += (long long)(gridDim.x) * blockDim.x) {
        const Value v = x[i];
        const float f = recon::shrink_factor<power>(v.re, v.im, inverse, exponent);
        x[i] = {v.re * f, v.im * f};
    }
}

extern "C" __global__ void shrink(Value* x, const float* limit, float exponent, long long count) {
    const float inverse = recon::inverse_of(*limit);
    if (exponent == 1) shrink_all<Power::one>(x, inverse, exponent, count);
    else if (exponent == 1.5f) shrink_all<Power::three_halves>(x, inverse, exponent, count);
    else if (exponent == 2) shrink_all<Power::two>(x, inverse, exponent, count);
    else shrink_all<Power::any>(x, inverse, exponent, count);
}
