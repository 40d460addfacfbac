// What shrinkage leaves of a magnitude: max(0, 1 - (threshold / size)^exponent), soft thresholding for exponent 1.
// The exponents 1, 3/2 and 2 need no power function.
#pragma once

#ifdef __CUDACC__
#define RECON_SCALAR __device__ __forceinline__
#else
#include <cmath>
#define RECON_SCALAR inline __attribute__((always_inline))
#endif

namespace recon {

enum class Power { one, three_halves, two, any };

template <Power power>
RECON_SCALAR float shrink_factor(float square, float threshold, float exponent) {
    // `square` is |x|^2; below the threshold the ratio is held at one.
    float floor = threshold * threshold;
    float ratio2 = floor / (square > floor ? square : floor);
    if (power == Power::two) return 1 - ratio2;
    float ratio = sqrtf(ratio2);
    if (power == Power::one) return 1 - ratio;
    if (power == Power::three_halves) return 1 - ratio * sqrtf(ratio);
    return 1 - powf(ratio, exponent);
}

}  // namespace recon
