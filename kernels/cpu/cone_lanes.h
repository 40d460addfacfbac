// Cone beams in single precision: LANES neighbouring detector rows, or slices of the volume, are processed together.
//
// For either, the positions of the other are equally spaced in one ray plane. So two or four vectors of neighbours
// contain all that LANES positions need, and permutations select from them, as in projector.h. If rows and slices are
// too different, the arithmetic of shared/cone.h is used one by one. Columns lie in memory one after the other, with
// SLACK values before and after.
#pragma once

#include <cmath>

#include "../shared/cone.h"
#include "lanes.h"

namespace recon {

constexpr int SLACK = 2 * PAD;  // vectors read this far beyond a column
constexpr int RAYS = 16;  // rays of a column processed at a time, a multiple of LANES

// A column of `count` values from `base` on, for vectors: zeros beyond its ends.
template <int span>
inline Values<span> part(const float* column, int base, int count) {
    Values<span> v(column + base);
    if (base < 0 || base + span * LANES > count)
        for (int k = 0; k < span; ++k) {
            const Ints n = truncate(number()) + (base + k * LANES);
            v.v[k] = (n >= 0) & (n < count) ? v.v[k] : Lanes{};
        }
    return v;
}

// left a + right b at the positions base + x, linear between neighbours.
template <int span>
inline Lanes between(const float* a, const float* b, float left, float right, int base, int count, Lanes x) {
    Values<span> v = part<span>(a, base, count);
    const Values<span> w = part<span>(b, base, count);
    for (int k = 0; k < span; ++k) v.v[k] = left * v.v[k] + right * w.v[k];
    const Ints n = truncate(x);
    const Lanes low = v.at(n);
    return low + (x - real(n)) * (v.at(n + 1) - low);
}

// As project<RAYS>, for a volume stored in columns.
template <int span>
inline void climb(const Track<float>& t, const Tower<float>& s, const float* x, const Volume& v, int first, float* out) {
    constexpr int GROUPS = RAYS / LANES;
    const bool across = t.step > 0;
    const int lines = across ? v.rows : v.columns, width = across ? v.columns : v.rows;
    const long next_row = long(v.columns) * v.slices, next = v.slices;
    const long line_step = across ? next_row : next, along = across ? next : next_row;
    Lanes rise[GROUPS], sums[GROUPS] = {};
    for (int g = 0; g < GROUPS; ++g) rise[g] = (number() + float(first + g * LANES) - s.centre) * s.per;
    for (int line = 0; line < lines; ++line) {
        const float at = t.at + t.slope * float(line);
        if (!(at > -1 && at < float(width))) continue;
        const int k = int(at + 1) - 1;
        const float f = at - float(k), share = t.tau + t.rate * float(line);
        const float left = k >= 0 ? 1 - f : 0, right = k + 1 < width ? f : 0;
        const float* a = x + line * line_step + (k < 0 ? 0 : k) * along;
        const float* b = x + line * line_step + (k + 1 < width ? k + 1 : k) * along;
        for (int g = 0; g < GROUPS; ++g) {
            const Lanes z = s.low + rise[g] * share;
            const float one = z[0], last = z[LANES - 1], low = one < last ? one : last;
            if (!(low < float(v.slices) && (one < last ? last : one) > -1)) continue;
            const int base = floored(low);
            sums[g] += between<span>(a, b, left, right, base, v.slices, z - float(base));
        }
    }
    for (int g = 0; g < GROUPS; ++g) put(out + g * LANES, sums[g]);
}

inline void follow(const Track<float>& t, const Tower<float>& s, const float* standing, const Volume& v, int rows,
                   float* out, long next) {
    const float last = t.tau + t.rate * float((t.step > 0 ? v.rows : v.columns) - 1);
    const float apart = std::fabs(s.per) * std::fmax(std::fabs(t.tau), std::fabs(last));
    const int span = vectors(apart * (LANES - 1) + 2);
    for (int first = 0; first < rows; first += RAYS) {
        float sums[RAYS];
        if (span == 2) climb<2>(t, s, standing, v, first, sums);
        else if (span == 4) climb<4>(t, s, standing, v, first, sums);
        else project<RAYS>(t, s, standing, v, 1, long(v.columns) * v.slices, v.slices, first, sums);
        for (int n = 0; n < RAYS && first + n < rows; ++n) out[(first + n) * next] = sums[n];
    }
}

// As spread, for `slices` slices: those of a vector gather the rows w with |level(w) - slice| < 1, at most `count` from
// the first one on.
template <int span>
inline void gather_rows(const Tower<float>& s, const float* seen, float margin, int rows, float beside, float share,
                        int slices, float* sums) {
    const float per = s.per * share, each = 1 / per, reach = each + margin;
    const int count = int(std::ceil(2 * reach));
    for (int k = 0; k < slices; k += LANES) {
        const Lanes slice = number() + float(k), low = s.centre + (slice - s.low) * each - (reach - 1);
        if (!(low[0] < float(rows) && low[LANES - 1] + float(count) > 0)) continue;
        const int base = floored(low[0]);
        const Ints n = truncate(low - float(base));
        Lanes gap = s.low + (real(n + base) - s.centre) * per - slice, sum = {};
        for (int r = 0; r < count; ++r, gap += per)
            sum += most(1.0f - magnitude(gap), Lanes{}) * part<span>(seen, base + r, rows).at(n);
        put(sums + k, take(sums + k) + beside * sum);
    }
}

inline void gather_standing(const View<float>& view, const Detector<float>& d, const Track<float>* tracks,
                            const Tower<float>& s, const float* values, const Panel& panel, int row, int column, int slices,
                            float* sums) {
    passes(view, d, tracks, panel, row, column, [&](int u, float beside, float share) {
        const float* seen = values + long(u) * panel.rows;
        const int span = vectors((LANES - 1) / (s.per * share) + 2);
        if (span == FAR || !(share > 0)) spread(s, seen, 1, d.margin, panel, beside, share, 0, slices, sums);
        else if (span == 2) gather_rows<2>(s, seen, d.margin, panel.rows, beside, share, slices, sums);
        else gather_rows<4>(s, seen, d.margin, panel.rows, beside, share, slices, sums);
    });
}

// As smear, for `slices` slices.
template <int span>
inline void smear_rows(const Tower<float>& s, const float* a, const float* b, float left, float right, float each, int rows,
                       int slices, float* sums) {
    for (int k = 0; k < slices; k += LANES) {
        const Lanes w = s.centre + (number() + float(k) - s.low) * each;
        if (!(w[0] < float(rows) && w[LANES - 1] > -1)) continue;
        const int base = floored(w[0]);
        put(sums + k, take(sums + k) + between<span>(a, b, left, right, base, rows, w - float(base)));
    }
}

inline void smear_standing(const View<float>& view, const Detector<float>& d, const Tower<float>& s, const float* values,
                           const Panel& panel, int row, int column, int slices, float* sums) {
    const float far = depth(view, float(row), float(column)), u = element(d, side(view, float(row), float(column)), far);
    if (!(u > -1 && u < float(panel.columns))) return;
    const float each = 1 / (s.per * s.near * far);
    const int span = vectors((LANES - 1) * each + 2);
    if (span == FAR || !(each > 0)) return smear(view, d, s, values, 1, panel.rows, panel, row, column, 0, slices, sums);
    const int m = int(u + 1) - 1;
    const float f = u - float(m), weight = 1 / (far * far);
    const float left = m >= 0 ? (1 - f) * weight : 0, right = m + 1 < panel.columns ? f * weight : 0;
    const float* a = values + long(m < 0 ? 0 : m) * panel.rows;
    const float* b = values + long(m + 1 < panel.columns ? m + 1 : m) * panel.rows;
    (span == 2 ? smear_rows<2> : smear_rows<4>)(s, a, b, left, right, each, panel.rows, slices, sums);
}

}  // namespace recon
