// Fourier transforms of LANES neighbouring columns at once, in place, in a block of memory that stays in the cache.
#pragma once

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <type_traits>
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

// 32 registers hold the sixteen vectors of a butterfly of eight and its results; 16 do not.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool MANY_REGISTERS = true;
#else
constexpr bool MANY_REGISTERS = false;
#endif

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef Complex<Lanes> Row;  // one row of a column block: LANES complex values, real and imaginary parts separate

struct Pass {
    int radix, span;  // blocks of `span` values are divided into `radix` parts
    std::vector<float> twiddles, roots;
};

struct Plan {
    int n;
    std::vector<Pass> passes;
    std::vector<int> frequency;  // frequency[position] after the forward transform

    explicit Plan(int length) : n(length), frequency(length) {
        const double turn = -2 * 3.14159265358979323846;
        std::vector<int> radices;
        int rest = n, twos = 0;
        for (; rest % 2 == 0; rest /= 2) ++twos;
        if (!MANY_REGISTERS)  // radix 4 first; an 8 is left for the middle, which has no twiddles
            for (; twos > 3 || twos == 2; twos -= 2) radices.push_back(4);
        for (int r : {5, 3, 7, 11, 13})
            for (; rest % r == 0; rest /= r) radices.push_back(r);
        // Powers of two: as few passes as possible, the largest radix last, where the block is in registers.
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

// The plan for a length; its n = 0 means that the length has a prime factor above 13.
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

// One pass over all blocks: values are read by in(row) and written by out(row, value), so that operations before or
// after a transform need no pass of their own.
template <int radix, class In, class Out>
inline void forward_pass(const Pass& p, int n, In in, Out out) {
    const int r = radix ? radix : p.radix, m = p.span / r;
    for (int start = 0; start < n; start += p.span)
        for (int j = 0; j < m; ++j) {
            Row a[radix ? radix : 16];
            for (int k = 0; k < r; ++k) a[k] = in(start + j + k * m);
            dft<-1, radix>(a, r, p.roots.data());
            const float* w = p.twiddles.data() + 2 * j * (r - 1);
            out(start + j, a[0]);
            for (int q = 1; q < r; ++q) out(start + j + q * m, turned(a[q], w[2 * q - 2], w[2 * q - 1]));
        }
}

template <int radix, class In, class Out>
inline void backward_pass(const Pass& p, int n, In in, Out out) {
    const int r = radix ? radix : p.radix, m = p.span / r;
    for (int start = 0; start < n; start += p.span)
        for (int j = 0; j < m; ++j) {
            Row a[radix ? radix : 16];
            const float* w = p.twiddles.data() + 2 * j * (r - 1);
            a[0] = in(start + j);
            for (int q = 1; q < r; ++q) a[q] = turned(in(start + j + q * m), w[2 * q - 2], -w[2 * q - 1]);
            dft<1, radix>(a, r, p.roots.data());
            for (int k = 0; k < r; ++k) out(start + j + k * m, a[k]);
        }
}

// The last forward pass, whose twiddles are 1, the weights and the first backward pass, one block at a time;
// meanwhile(row) may prefetch memory that is needed next.
template <int radix, class Meanwhile>
inline void centre_pass(const Pass& p, int n, const float* w, Row* rows, Meanwhile meanwhile) {
    const int r = radix ? radix : p.radix;
    for (int start = 0; start < n; start += r) {
        Row a[radix ? radix : 16];
        for (int k = 0; k < r; ++k) a[k] = rows[start + k];
        dft<-1, radix>(a, r, p.roots.data());
        for (int k = 0; k < r; ++k) a[k].re *= w[start + k], a[k].im *= w[start + k];
        dft<1, radix>(a, r, p.roots.data());
        for (int k = 0; k < r; ++k) {
            rows[start + k] = a[k];
            meanwhile(start + k);
        }
    }
}

template <class Call>
inline void by_radix(int radix, Call call) {
    switch (radix) {
        case 2: call(std::integral_constant<int, 2>()); break;
        case 3: call(std::integral_constant<int, 3>()); break;
        case 4: call(std::integral_constant<int, 4>()); break;
        case 5: call(std::integral_constant<int, 5>()); break;
        case 8: call(std::integral_constant<int, 8>()); break;
        default: call(std::integral_constant<int, 0>());
    }
}

// The first `passes` forward passes, from in(row) to rows.
template <class In>
inline void forward(const Plan& plan, int passes, Row* rows, In in) {
    auto put = [rows](int i, Row v) { rows[i] = v; };
    if (passes < 1)
        for (int i = 0; i < plan.n; ++i) rows[i] = in(i);
    for (int p = 0; p < passes; ++p)
        by_radix(plan.passes[p].radix, [&](auto r) {
            if (p == 0) forward_pass<r>(plan.passes[p], plan.n, in, put);
            else forward_pass<r>(plan.passes[p], plan.n, [rows](int i) { return rows[i]; }, put);
        });
}

// The last `passes` backward passes, from rows to out(row, value).
template <class Out>
inline void backward(const Plan& plan, int passes, Row* rows, Out out) {
    auto get = [rows](int i) { return rows[i]; };
    for (int p = passes - 1; p >= 0; --p)
        by_radix(plan.passes[p].radix, [&](auto r) {
            if (p == 0) backward_pass<r>(plan.passes[p], plan.n, get, out);
            else backward_pass<r>(plan.passes[p], plan.n, get, [rows](int i, Row v) { rows[i] = v; });
        });
    if (passes < 1)
        for (int i = 0; i < plan.n; ++i) out(i, rows[i]);
}

inline void forward(const Plan& plan, Row* rows) {
    forward(plan, int(plan.passes.size()), rows, [rows](int i) { return rows[i]; });
}

inline void backward(const Plan& plan, Row* rows) {
    backward(plan, int(plan.passes.size()), rows, [rows](int i, Row v) { rows[i] = v; });
}

// F^-1 w F of in(row) to out(row, value), with w in the order in which the forward transform leaves frequencies; `rows`
// is room for n.
template <class In, class Out, class Meanwhile>
inline void filter(const Plan& plan, const float* w, Row* rows, In in, Out out, Meanwhile meanwhile) {
    const int outer = int(plan.passes.size()) - 1;
    forward(plan, outer, rows, in);
    if (outer < 0) rows[0].re *= w[0], rows[0].im *= w[0];
    else by_radix(plan.passes[outer].radix,
                  [&](auto r) { centre_pass<r>(plan.passes[outer], plan.n, w, rows, meanwhile); });
    backward(plan, outer, rows, out);
}

}  // namespace recon
