// Fourier transforms of LANES neighbouring columns at once, in place, in a block of memory that stays in the cache.
#pragma once

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "../shared/fft.h"

namespace recon {

#ifdef __AVX512F__
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef Complex<Lanes> Row;  // one row of a column block: LANES complex values, real and imaginary parts apart

struct Pass {
    int radix, span;  // blocks of `span` values are split into `radix` parts
    std::vector<float> twiddles, roots;
};

struct Plan {
    int n;
    std::vector<Pass> passes;
    std::vector<int> frequency;  // frequency[position] after the forward transform

    explicit Plan(int length) : n(length), frequency(length) {
        const double turn = -2 * 3.14159265358979323846;
        std::vector<int> radices;
        int rest = n;
        for (int r : {5, 3, 7, 11, 13})
            for (; rest % r == 0; rest /= r) radices.push_back(r);
        // Powers of two: as few passes as there can be, the largest radix last where the block is in registers.
        int twos = 0;
        for (; rest % 2 == 0; rest /= 2) ++twos;
        while (twos > 0) {
            int take = twos == 4 || twos == 2 ? 2 : twos >= 3 ? 3 : twos;
            radices.push_back(1 << take);
            twos -= take;
        }
        if (rest != 1) { n = 0; return; }
        int span = n;
        for (int r : radices) {
            Pass p{r, span, {}, {}};
            for (int j = 0; j < span / r; ++j)
                for (int q = 1; q < r; ++q) {
                    double angle = turn * (double(j) * q / span);
                    p.twiddles.push_back(float(std::cos(angle)));
                    p.twiddles.push_back(float(std::sin(angle)));
                }
            for (int k = 0; k < r; ++k) {
                p.roots.push_back(float(std::cos(turn * k / r)));
                p.roots.push_back(float(std::sin(turn * k / r)));
            }
            passes.push_back(p);
            span /= r;
        }
        for (int at = 0; at < n; ++at) {
            int position = at, part = n, step = 1, f = 0;
            for (const Pass& p : passes) {
                part /= p.radix;
                f += position / part * step;
                position %= part;
                step *= p.radix;
            }
            frequency[at] = f;
        }
    }
};

// The plan for a length; n = 0 in it says that the length has a prime factor above 13.
inline std::shared_ptr<const Plan> plan(int n) {
    static std::map<int, std::shared_ptr<const Plan>> known;
    static std::mutex lock;
    std::lock_guard<std::mutex> held(lock);
    auto& found = known[n];
    if (!found) {
        if (known.size() > 256) known.clear();
        auto made = std::make_shared<const Plan>(n);
        known[n] = made;
        return made;
    }
    return found;
}

template <int radix>
inline void forward_pass(const Pass& p, int n, Row* rows) {
    int m = p.span / p.radix;
    for (int start = 0; start < n; start += p.span)
        for (int j = 0; j < m; ++j)
            forward_butterfly<radix>(rows + start, m, p.radix, p.twiddles.data(), p.roots.data(), j);
}

template <int radix>
inline void backward_pass(const Pass& p, int n, Row* rows) {
    int m = p.span / p.radix;
    for (int start = 0; start < n; start += p.span)
        for (int j = 0; j < m; ++j)
            backward_butterfly<radix>(rows + start, m, p.radix, p.twiddles.data(), p.roots.data(), j);
}

inline void forward(const Plan& plan, Row* rows) {
    for (const Pass& p : plan.passes) switch (p.radix) {
        case 2: forward_pass<2>(p, plan.n, rows); break;
        case 3: forward_pass<3>(p, plan.n, rows); break;
        case 4: forward_pass<4>(p, plan.n, rows); break;
        case 5: forward_pass<5>(p, plan.n, rows); break;
        case 8: forward_pass<8>(p, plan.n, rows); break;
        default: forward_pass<0>(p, plan.n, rows);
    }
}

inline void backward(const Plan& plan, Row* rows) {
    for (auto p = plan.passes.rbegin(); p != plan.passes.rend(); ++p) switch (p->radix) {
        case 2: backward_pass<2>(*p, plan.n, rows); break;
        case 3: backward_pass<3>(*p, plan.n, rows); break;
        case 4: backward_pass<4>(*p, plan.n, rows); break;
        case 5: backward_pass<5>(*p, plan.n, rows); break;
        case 8: backward_pass<8>(*p, plan.n, rows); break;
        default: backward_pass<0>(*p, plan.n, rows);
    }
}

}  // namespace recon
