// Features of a network with adjacent channels, (pixel, channel): normalised over their image and rectified.
//
// Vectors run over pixels and channels alike: after `period` of them the channels of their lanes repeat. Sums are
// computed in single precision over fixed blocks relative to the mean of each, and combined in double precision in a
// fixed order.
#pragma once

#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "columns.h"
#include "vectors.h"

namespace recon {

struct Features {
    long pixels;
    int channels, period, group;  // a group of pixels fills `period` vectors
    long block;  // pixels of one partial sum

    Features(long p, int c) : pixels(p), channels(c), period(c / std::gcd(c, LANES)), group(LANES / std::gcd(c, LANES)) {
        const int times = (7 + period) / period;  // at least eight independent sums
        period *= times, group *= times;
        const long floats = long(group) * channels;
        block = (floats < BLOCK ? BLOCK / floats : 1) * group;
    }
    long blocks() const { return (pixels + block - 1) / block; }
};

// Calls vector(j, at) for the vectors of a block, j < period, and scalar(channel, at) for the rest that fills no group.
template <class Vector, class Scalar>
inline void each_feature(const Features& f, long n, Vector vector, Scalar scalar) {
    const long first = n * f.block, count = std::min(f.block, f.pixels - first), groups = count / f.group;
    long at = first * f.channels;
    for (long g = 0; g < groups; ++g)
        for (int j = 0; j < f.period; ++j, at += LANES) vector(j, at);
    for (long p = groups * f.group; p < count; ++p)
        for (int c = 0; c < f.channels; ++c, ++at) scalar(c, at);
}

// Adds the lanes of `period` vectors to their channels.
inline void fold(const Features& f, const Lanes* sums, double* channels) {
    for (int j = 0, c = 0; j < f.period; ++j)
        for (int l = 0; l < LANES; ++l, c = c + 1 < f.channels ? c + 1 : 0) channels[c] += sums[j][l];
}

// The values of channels in the order of the vectors.
inline void unfold(const Features& f, const float* channels, Lanes* out) {
    for (int j = 0, c = 0; j < f.period; ++j)
        for (int l = 0; l < LANES; ++l, c = c + 1 < f.channels ? c + 1 : 0) out[j][l] = channels[c];
}

// Mean of each channel of one block, and the sum of squares about it.
inline void block_moments(const Features& f, const float* x, long n, Lanes* sums, Lanes* means, double* mean, double* square) {
    const double count = double(std::min(f.block, f.pixels - n * f.block));
    std::vector<float> about(f.channels);
    std::fill(sums, sums + f.period, Lanes{});
    std::fill(mean, mean + f.channels, 0.0), std::fill(square, square + f.channels, 0.0);
    each_feature(f, n, [=](int j, long at) { sums[j] += take(x + at); }, [=](int c, long at) { mean[c] += x[at]; });
    fold(f, sums, mean);
    for (int c = 0; c < f.channels; ++c) mean[c] /= count, about[c] = float(mean[c]);
    unfold(f, about.data(), means);
    std::fill(sums, sums + f.period, Lanes{});
    const float* m = about.data();
    each_feature(
        f, n,
        [=](int j, long at) {
            const Lanes d = take(x + at) - means[j];
            sums[j] += d * d;
        },
        [=](int c, long at) { square[c] += (x[at] - m[c]) * (x[at] - m[c]); });
    fold(f, sums, square);
}

// x = rectified (x - mean) / sqrt(variance + floor), `slope` times it if negative; with `out` the result is also
// written there, pixels `width` apart.
inline void rectify(float* x, long pixels, int channels, float floor, float slope, float* out, long width, int threads) {
    const Features f(pixels, channels);
    const long blocks = f.blocks();
    const Room memory(threads, f.period);
    std::vector<double> moments(2 * blocks * channels);
#pragma omp parallel for schedule(static) num_threads(threads) if (blocks > 1)
    for (long n = 0; n < blocks; ++n) {
        Lanes* own = reinterpret_cast<Lanes*>(memory.own());
        double* at = &moments[2 * n * channels];
        block_moments(f, x, n, own, own + f.period, at, at + channels);
    }
    std::vector<float> scale(channels), middle(channels);
    for (int c = 0; c < channels; ++c) {
        double count = 0, mean = 0, square = 0;
        for (long n = 0; n < blocks; ++n) {
            const double more = double(std::min(f.block, pixels - n * f.block)), all = count + more;
            const double away = moments[2 * n * channels + c] - mean;
            square += moments[(2 * n + 1) * channels + c] + away * away * count * more / all;
            mean += away * more / all, count = all;
        }
        scale[c] = float(1 / std::sqrt(square / count + floor)), middle[c] = float(mean);
    }
#pragma omp parallel for schedule(static) num_threads(threads) if (blocks > 1)
    for (long n = 0; n < blocks; ++n) {
        Lanes *scales = reinterpret_cast<Lanes*>(memory.own()), *means = scales + f.period;
        unfold(f, scale.data(), scales), unfold(f, middle.data(), means);
        const float *s = scale.data(), *m = middle.data();
        each_feature(
            f, n,
            [=](int j, long at) {
                const Lanes v = (take(x + at) - means[j]) * scales[j];
                put(x + at, v > 0 ? v : v * slope);
            },
            [=](int c, long at) {
                const float v = (x[at] - m[c]) * s[c];
                x[at] = v > 0 ? v : v * slope;
            });
        if (!out) continue;
        for (long p = n * f.block; p < std::min(pixels, (n + 1) * f.block); ++p) {
            const float* from = x + p * channels;
            float* to = out + p * width;
            int c = 0;
            for (; c + LANES <= channels; c += LANES) put(to + c, take(from + c));
            for (; c < channels; ++c) to[c] = from[c];
        }
    }
}

}  // namespace recon
