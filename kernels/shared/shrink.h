// The factor by which shrinkage reduces a magnitude: max(0, 1 - (threshold / size)^exponent), soft thresholding for
// exponent 1. The exponents 1, 3/2 and 2 need no power function.
#pragma once

#ifdef __CUDACC__
#define RECON_SCALAR __device__ __forceinline__
#else
#include <cmath>
#define RECON_SCALAR inline __attribute__((always_inline))
#endif

namespace recon {

enum class Power { one, three_halves, two, any };

RECON_SCALAR float inverse_of(float threshold) { return 1 / (threshold > 1e-38f ? threshold : 1e-38f); }

// `inverse` is 1 / threshold: squares are computed relative to it, so that they stay in the range of single precision.
template <Power power>
RECON_SCALAR float shrink_factor(float re, float im, float inverse, float exponent) {
    const float a = re * inverse, b = im * inverse, square = a * a + b * b;
    float ratio2 = square > 1 ? 1 / square : 1;
    if (power == Power::two) return 1 - ratio2;
    float ratio = sqrtf(ratio2);
    if (power == Power::one) return 1 - ratio;
    if (power == Power::three_halves) return 1 - ratio * sqrtf(ratio);
    return 1 - powf(ratio, exponent);
}

}  // namespace recon
