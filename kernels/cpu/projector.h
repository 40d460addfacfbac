// X-ray projection on the CPU: LANES neighbouring rays, or LANES neighbouring pixels, are processed together.
//
// On a line of the image neighbouring rays cross neighbouring pixels. So two or four vectors of pixels contain all that
// LANES rays need, and permutations select from them. If rays (in the transpose, pixels) are further apart, memory is
// gathered. Rays that cross columns use a transposed image. Every ray and every pixel belongs to one thread and is
// summed in a fixed order, so the bits do not depend on threads or on the batch. Double precision is computed one by
// one.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../shared/projector.h"
#include "lanes.h"

namespace recon {

constexpr int TILE = 4 * LANES;  // pixels of a tile along a line
constexpr int TILE_LINES = 16;   // lines of a tile

// ---- forward

// A row of the image with PAD zeros on both sides, or a column of it.
inline void pad(const float* image, const Grid& g, bool turned, int line, float* out) {
    const int width = turned ? g.rows : g.columns;
    for (int k = 0; k < PAD; ++k) out[k] = out[PAD + width + k] = 0;
    out += PAD;
    if (!turned) std::memcpy(out, image + long(line) * width, width * sizeof(float));
    else
        for (int k = 0; k < width; ++k) out[k] = image[long(k) * g.columns + line];
}

// Sums over the lines for LANES rays, without the step.
template <int span>
inline Lanes march(Lanes at, Lanes slope, const float* padded, int width, int lines) {
    const long pitch = width + 2 * PAD;
    Lanes sum = {};
    for (int line = 0; line < lines; ++line) {
        const float a = at[0] + slope[0] * line, b = at[LANES - 1] + slope[LANES - 1] * line;
        const float low = a < b ? a : b;
        if (!(low < width && (a < b ? b : a) > -1)) continue;
        Lanes x = at + slope * float(line);
        if (span == FAR) {
            x = most(least(x, broadcast(float(width))), broadcast(-1));
            const Ints n = floored(x);
            Values<FAR> v(padded + line * pitch + PAD);
            const Lanes p = v.at(n);
            sum += p + (x - real(n)) * (v.at(n + 1) - p);
        } else {
            const int k = floored(low);
            x -= float(k);
            const Ints n = truncate(x);
            Values<span> v(padded + line * pitch + PAD + k);
            const Lanes p = v.at(n);
            sum += p + (x - real(n)) * (v.at(n + 1) - p);
        }
    }
    return sum;
}

// One view; `upright` and `turned` are padded images.
inline void project_view(const Ray<float>* rays, const Grid& g, const float* upright, const float* turned, float* out) {
    for (int u = 0; u < g.detectors;) {
        const bool across = rays[u].step > 0;
        int count = 1;
        while (count < LANES && u + count < g.detectors && (rays[u + count].step > 0) == across) ++count;
        Lanes at, slope;
        for (int l = 0; l < LANES; ++l) {
            const Ray<float>& ray = rays[u + (l < count ? l : count - 1)];
            at[l] = ray.at, slope[l] = ray.slope;
        }
        const int width = across ? g.columns : g.rows, lines = across ? g.rows : g.columns;
        auto reach = [&](int line) { return std::fabs(at[LANES - 1] - at[0] + (slope[LANES - 1] - slope[0]) * line); };
        const int span = vectors(std::fmax(reach(0), reach(lines - 1)) + 2);
        const float* padded = across ? upright : turned;
        const Lanes sum = (span == 2 ? march<2> : span == 4 ? march<4> : march<FAR>)(at, slope, padded, width, lines);
        for (int l = 0; l < count; ++l) out[u + l] = sum[l] * std::fabs(rays[u + l].step);
        u += count;
    }
}

inline void xray_project(const float* image, const Ray<float>* rays, const Grid& g, long items, float* out, int threads) {
    const long pitch = g.columns + 2 * PAD, turned_pitch = g.rows + 2 * PAD;
    std::vector<float> upright(g.rows * pitch), turned(g.columns * turned_pitch);
#pragma omp parallel num_threads(threads)
    for (long item = 0; item < items; ++item) {
        const float* from = image + item * g.rows * g.columns;
#pragma omp for schedule(static)
        for (int row = 0; row < g.rows; ++row) pad(from, g, false, row, &upright[row * pitch]);
#pragma omp for schedule(static)
        for (int column = 0; column < g.columns; ++column) pad(from, g, true, column, &turned[column * turned_pitch]);
#pragma omp for schedule(dynamic, 4)
        for (int v = 0; v < g.views; ++v)
            project_view(rays + long(v) * g.detectors, g, upright.data(), turned.data(),
                         out + (item * g.views + v) * g.detectors);
    }
}

// ---- transpose and filtered backprojection

// The data that the tiles of one sweep read: views with rays in it, on lines with PAD values on both sides.
struct Sweep {
    Grid g;  // rows are the lines of the sweep, columns the pixels along them
    Detector<float> d;
    bool turned;
    std::vector<int> which;
    std::vector<View<float>> views;
    std::vector<float> at, slope;  // of the rays, if they are not parallel
    std::vector<float> values;
    long pitch() const { return g.detectors + 2 * PAD; }
};

inline View<float> turn_view(View<float> v) {
    return {v.side, v.side_column, v.side_row, v.depth, v.depth_column, v.depth_row};
}

// `rays` is null in filtered backprojection, which uses every view.
inline Sweep sweep(const Ray<float>* rays, const View<float>* views, const Detector<float>& d, const Grid& g, bool turned) {
    Sweep s{g, d, turned, {}, {}, {}, {}, {}};
    if (turned) std::swap(s.g.rows, s.g.columns);
    for (int v = 0; v < g.views; ++v) {
        const Ray<float>* ray = rays + (rays ? long(v) * g.detectors : 0);
        bool some = !rays;
        for (int u = 0; u < g.detectors && !some; ++u) some = (ray[u].step > 0) != turned;
        if (!some) continue;
        s.which.push_back(v);
        s.views.push_back(turned ? turn_view(views[v]) : views[v]);
    }
    s.values.assign(s.which.size() * s.pitch(), 0);
    if (!rays || d.beam == PARALLEL) return s;
    s.at.assign(s.values.size(), 0), s.slope.assign(s.values.size(), 0);
    for (size_t n = 0; n < s.which.size(); ++n)
        for (int u = 0; u < g.detectors; ++u) {
            const Ray<float>& ray = rays[long(s.which[n]) * g.detectors + u];
            if ((ray.step > 0) == turned) continue;
            s.at[n * s.pitch() + PAD + u] = ray.at, s.slope[n * s.pitch() + PAD + u] = ray.slope;
        }
    return s;
}

inline void fill(Sweep& s, size_t n, const Ray<float>* rays, const float* sinogram) {
    const long from = long(s.which[n]) * s.g.detectors;
    float* to = &s.values[n * s.pitch() + PAD];
    for (int u = 0; u < s.g.detectors; ++u) {
        const float step = !rays ? 1 : s.turned ? -rays[from + u].step : rays[from + u].step;
        to[u] = step > 0 ? step * sinogram[from + u] : 0;
    }
}

struct Tile {
    int line, lines, pixel;
};

// Largest change of the position on the detector from one pixel to the next, in a tile and around it.
inline float stride(const View<float>& v, const Detector<float>& d, const Tile& t, int columns) {
    if (d.beam == PARALLEL) return std::fabs(d.per * v.side_column);
    float rise = 0, near = INFINITY;
    for (int end = 0; end < 4; ++end) {
        const float line = float(end & 1 ? t.line + t.lines : t.line - 1);
        const float pixel = float(end & 2 ? std::min(t.pixel + TILE, columns) : t.pixel - 1);
        const float b = depth(v, line, pixel);
        rise = std::fmax(rise, std::fabs(v.side_column * b - v.depth_column * side(v, line, pixel)));
        near = std::fmin(near, b);
    }
    return near > 0 ? std::fabs(d.per) * rise / (near * near) : INFINITY;
}

template <int beam>
inline Lanes position(const Detector<float>& d, Lanes side, Lanes depth) {
    if (beam == PARALLEL) return d.centre + d.per * side;
    const Lanes t = side / depth;
    return d.centre + d.per * (beam == CURVED ? arctangent(t) : t);
}

// Adds one view to the sums of a tile; `reach` is the half-width in elements of the rays that may touch a pixel.
template <int beam, int span, int fixed>
inline void gather_view(const Sweep& s, size_t n, const Tile& t, float reach, Lanes (*sums)[TILE / LANES]) {
    const View<float>& v = s.views[n];
    const float *values = &s.values[n * s.pitch()] + PAD, end = float(s.g.detectors);
    const float wide = std::ceil(2 * reach);  // next to elements of almost zero width it may be any number
    const int rays = fixed ? fixed : int(span == FAR ? std::fmin(wide, end + 1) : wide);
    const float pixels = 1 / std::fabs(s.d.per * v.side_column);  // from one ray to the next, in a parallel beam
    for (int i = 0; i < t.lines; ++i) {
        const float line = float(t.line + i);
        for (int k = 0; k < TILE / LANES; ++k) {
            const Lanes pixel = least(number() + float(t.pixel + k * LANES), broadcast(float(s.g.columns - 1)));
            const Lanes across = side(v, line, 0.0f) + v.side_column * pixel;
            const Lanes along = depth(v, line, 0.0f) + v.depth_column * pixel;
            const Lanes low = position<beam>(s.d, across, along) - (reach - 1);
            const float a = low[0] < low[LANES - 1] ? low[0] : low[LANES - 1];
            const float b = low[0] < low[LANES - 1] ? low[LANES - 1] : low[0];
            if (!(a < end && b + wide > 0)) continue;
            // u is the first ray of each pixel: low - 1 < u <= low, counted from `base`
            const int base = span == FAR ? 0 : floored(a);
            const Lanes shifted = low - float(base);
            Ints u = span == FAR ? floored(most(least(low, broadcast(end)), broadcast(-1))) : truncate(shifted);
            const Values<span> given(values + base);
            Values<span> at(beam == PARALLEL ? values : &s.at[n * s.pitch()] + PAD + base);
            const Values<span> slope(beam == PARALLEL ? values : &s.slope[n * s.pitch()] + PAD + base);
            for (int m = 0; m < span; ++m) at.v[m] += slope.v[m] * line;
            Lanes sum = {};
            Lanes gap = (real(u) - shifted - (reach - 1)) * pixels;
            for (int r = 0; r < rays; ++r, u += 1, gap += pixels) {
                const Ints m = span == FAR ? (u < -1 ? Ints{} - 1 : u > s.g.detectors ? Ints{} + s.g.detectors : u) : u;
                const Lanes away = beam == PARALLEL ? gap
                                   : span == FAR  ? at.at(m) + slope.at(m) * line - pixel
                                                  : at.at(m) - pixel;
                sum += most(1.0f - magnitude(away), Lanes{}) * given.at(m);
            }
            sums[i][k] += sum;
        }
    }
}

template <int beam, int span>
inline void smear_view(const Sweep& s, size_t n, const Tile& t, float, Lanes (*sums)[TILE / LANES]) {
    const View<float>& v = s.views[n];
    const float *values = &s.values[n * s.pitch()] + PAD, end = float(s.g.detectors);
    for (int i = 0; i < t.lines; ++i) {
        const float line = float(t.line + i);
        for (int k = 0; k < TILE / LANES; ++k) {
            const Lanes pixel = least(number() + float(t.pixel + k * LANES), broadcast(float(s.g.columns - 1)));
            const Lanes across = side(v, line, 0.0f) + v.side_column * pixel;
            const Lanes along = depth(v, line, 0.0f) + v.depth_column * pixel;
            Lanes x = position<beam>(s.d, across, along);
            const float a = x[0] < x[LANES - 1] ? x[0] : x[LANES - 1], b = x[0] < x[LANES - 1] ? x[LANES - 1] : x[0];
            if (!(a < end && b > -1)) continue;
            const int base = span == FAR ? 0 : floored(a);
            x = span == FAR ? most(least(x, broadcast(end)), broadcast(-1)) : x - float(base);
            const Ints u = span == FAR ? floored(x) : truncate(x);
            const Values<span> given(values + base);
            const Lanes p = given.at(u);
            Lanes value = p + (x - real(u)) * (given.at(u + 1) - p);
            if (beam != PARALLEL) value /= beam == CURVED ? across * across + along * along : along * along;
            sums[i][k] += value;
        }
    }
}

template <bool exact, int beam>
inline void tile_sums(const Sweep& s, const Tile& t, Lanes (*sums)[TILE / LANES]) {
    for (size_t n = 0; n < s.which.size(); ++n) {
        const float one = stride(s.views[n], s.d, t, s.g.columns);
        const float reach = exact ? one + s.d.margin : 0;
        const float rays = std::ceil(2 * reach);
        const int span = vectors(one * (LANES - 1) + rays + 2);
        // A constant number of rays per pixel for the usual ratios of detector elements to pixels
        auto f = !exact ? (span == 2 ? smear_view<beam, 2> : span == 4 ? smear_view<beam, 4> : smear_view<beam, FAR>)
                 : span == FAR ? gather_view<beam, FAR, 0>
                 : span == 4   ? (rays == 3 ? gather_view<beam, 4, 3> : rays == 4 ? gather_view<beam, 4, 4> : gather_view<beam, 4, 0>)
                 : rays == 2   ? gather_view<beam, 2, 2>
                 : rays == 3   ? gather_view<beam, 2, 3>
                               : gather_view<beam, 2, 0>;
        f(s, n, t, reach, sums);
    }
}

template <bool exact>
inline void backproject(const float* sinogram, const Ray<float>* rays, const View<float>* views, const Detector<float>& d,
                        const Grid& g, long items, float* image, int threads) {
    Sweep sweeps[2] = {sweep(rays, views, d, g, false), exact ? sweep(rays, views, d, g, true) : Sweep{}};
#pragma omp parallel num_threads(threads)
    for (long item = 0; item < items; ++item)
        for (int turned = 0; turned < (exact ? 2 : 1); ++turned) {
            Sweep& s = sweeps[turned];
            const long strips = (s.g.columns + TILE - 1) / TILE, bands = (s.g.rows + TILE_LINES - 1) / TILE_LINES;
            float* out = image + item * g.rows * g.columns;
#pragma omp for schedule(static)
            for (size_t n = 0; n < s.which.size(); ++n)
                fill(s, n, rays, sinogram + item * g.views * g.detectors);
#pragma omp for schedule(dynamic, 1)
            for (long number = 0; number < strips * bands; ++number) {
                Tile t{int(number / strips) * TILE_LINES, TILE_LINES, int(number % strips) * TILE};
                if (t.line + t.lines > s.g.rows) t.lines = s.g.rows - t.line;
                Lanes sums[TILE_LINES][TILE / LANES] = {};
                if (d.beam == PARALLEL) tile_sums<exact, PARALLEL>(s, t, sums);
                else if (d.beam == FLAT) tile_sums<exact, FLAT>(s, t, sums);
                else tile_sums<exact, CURVED>(s, t, sums);
                for (int i = 0; i < t.lines; ++i)
                    for (int k = 0; k < TILE && t.pixel + k < s.g.columns; ++k) {
                        const float sum = sums[i][k / LANES][k % LANES];
                        if (turned) out[long(t.pixel + k) * g.columns + t.line + i] += sum;
                        else out[long(t.line + i) * g.columns + t.pixel + k] = sum;
                    }
            }
        }
}

inline void xray_adjoint(const float* sinogram, const Ray<float>* rays, const View<float>* views, const Detector<float>& d,
                         const Grid& g, long items, float* image, int threads) {
    backproject<true>(sinogram, rays, views, d, g, items, image, threads);
}

inline void xray_smear(const float* sinogram, const View<float>* views, const Detector<float>& d, const Grid& g, long items,
                       float* image, int threads) {
    backproject<false>(sinogram, nullptr, views, d, g, items, image, threads);
}

// ---- double precision, one ray and one pixel at a time

inline void xray_project(const double* image, const Ray<double>* rays, const Grid& g, long items, double* out, int threads) {
    const long count = long(g.views) * g.detectors;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long at = 0; at < items * count; ++at)
        out[at] = project(rays[at % count], image + at / count * g.rows * g.columns, g);
}

template <class Pixel>
inline void pixels(const double* sinogram, const Grid& g, long items, double* image, int threads, Pixel pixel) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long line = 0; line < items * g.rows; ++line)
        for (int column = 0; column < g.columns; ++column) {
            const double* values = sinogram + line / g.rows * g.views * g.detectors;
            double sum = 0;
            for (int v = 0; v < g.views; ++v, values += g.detectors) sum += pixel(v, values, int(line % g.rows), column);
            image[line * g.columns + column] = sum;
        }
}

inline void xray_adjoint(const double* sinogram, const Ray<double>* rays, const View<double>* views,
                         const Detector<double>& d, const Grid& g, long items, double* image, int threads) {
    pixels(sinogram, g, items, image, threads, [&](int v, const double* values, int row, int column) {
        return gather(views[v], d, rays + long(v) * g.detectors, values, g, row, column);
    });
}

inline void xray_smear(const double* sinogram, const View<double>* views, const Detector<double>& d, const Grid& g, long items,
                       double* image, int threads) {
    pixels(sinogram, g, items, image, threads, [&](int v, const double* values, int row, int column) {
        return smear(views[v], d, values, g, row, column);
    });
}

}  // namespace recon
