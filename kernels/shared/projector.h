// X-ray projection by Joseph's method: the arithmetic of one ray and of one pixel, for the CPU and for CUDA. Without
// any library except for the arctangent.
//
// A ray is sampled on the lines of the image that it crosses steeply: on rows if it runs more along y, on columns if it
// runs more along x. On each line the image is interpolated linearly between two pixels:
//
//     crossing(line) = at + slope line,     (A x)(ray) = step sum_line sum_pixel hat(crossing(line) - pixel) x(line, pixel)
//
// with hat(t) = max(0, 1 - |t|) and step the length of the ray between two lines. The transpose gathers: a pixel adds
// step hat(crossing(line) - pixel) y(ray) of the rays whose crossing is less than one pixel away.
//
// P. M. Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE Trans. Med. Imaging 1 (1982).
#pragma once

#ifndef __CUDACC_RTC__  // which knows these functions but has no headers
#include <math.h>
#endif

#ifndef RECON_INLINE
#ifdef __CUDACC__
#define RECON_INLINE __device__ __forceinline__
#else
#define RECON_INLINE inline __attribute__((always_inline))
#endif
#endif

namespace recon {

enum Beam { PARALLEL, FLAT, CURVED };

template <class T>
struct Ray {
    T at, slope, step;  // step < 0: a ray that crosses columns, |step| long from one to the next
};

// A pixel's position as seen in a view: `side` across the central ray and `depth` along it, both affine in the pixel's
// row and column. Lengths are in source distances, so that the axis of rotation has the depth 1; a parallel beam has
// the depth 1 everywhere, and `side` in mm.
template <class T>
struct View {
    T side, side_row, side_column, depth, depth_row, depth_column;
};

struct Grid {
    int rows, columns, views, detectors;
};

// The position on the detector, in elements, is centre + per side / depth, or with the arctangent on a curved one.
template <class T>
struct Detector {
    int beam;
    T centre, per;
    T margin;  // bounds the rounding of a position
};

template <class T>
RECON_INLINE T side(const View<T>& v, T row, T column) {
    return v.side + v.side_row * row + v.side_column * column;
}

template <class T>
RECON_INLINE T depth(const View<T>& v, T row, T column) {
    return v.depth + v.depth_row * row + v.depth_column * column;
}

template <class T>
RECON_INLINE T element(const Detector<T>& d, T side, T depth) {
    if (d.beam == PARALLEL) return d.centre + d.per * side;
    T t = side / depth;
    return d.centre + d.per * (d.beam == CURVED ? T(atan(t)) : t);
}

template <class T>
RECON_INLINE T hat(T t) {
    T w = T(1) - (t < 0 ? -t : t);
    return w > 0 ? w : T(0);
}

// The line integral along one ray.
template <class T>
RECON_INLINE T project(const Ray<T>& ray, const T* image, const Grid& g) {
    const bool across = ray.step > 0;  // crosses rows
    const int lines = across ? g.rows : g.columns, width = across ? g.columns : g.rows;
    const long next = across ? g.columns : 1, along = across ? 1 : g.columns;
    T sum = 0;
    for (int line = 0; line < lines; ++line) {
        T x = ray.at + ray.slope * T(line);
        if (!(x > T(-1) && x < T(width))) continue;
        int k = int(x + T(1)) - 1;
        T f = x - T(k);
        const T* p = image + line * next + k * along;
        if (k >= 0) sum += (T(1) - f) * p[0];
        if (k + 1 < width) sum += f * p[along];
    }
    return sum * (across ? ray.step : -ray.step);
}

// What the rays of one view add to a pixel in the transpose; `rays` and `values` are those of the view.
template <class T>
RECON_INLINE T gather(const View<T>& v, const Detector<T>& d, const Ray<T>* rays, const T* values, const Grid& g, int row,
                      int column) {
    T sum = 0;
    for (int across = 0; across < 2; ++across) {
        const T i = T(across ? 0 : 1), j = T(across ? 1 : 0), r = T(row), c = T(column);
        T a = element(d, side(v, r - i, c - j), depth(v, r - i, c - j));
        T b = element(d, side(v, r + i, c + j), depth(v, r + i, c + j));
        T low = (a < b ? a : b) - d.margin, high = (a < b ? b : a) + d.margin;
        if (!(high > 0 && low < T(g.detectors))) continue;
        int u = low < 0 ? 0 : int(low);
        for (; u < g.detectors && T(u) < high; ++u) {
            const Ray<T> ray = rays[u];
            if ((ray.step > 0) != bool(across)) continue;
            T x = ray.at + ray.slope * (across ? r : c);
            sum += (across ? ray.step : -ray.step) * hat(x - (across ? c : r)) * values[u];
        }
    }
    return sum;
}

// What one view adds to a pixel in filtered backprojection: the filtered value at the pixel's position on the detector,
// interpolated linearly, over the squared distance from the source that belongs to the shape of the detector.
template <class T>
RECON_INLINE T smear(const View<T>& v, const Detector<T>& d, const T* values, const Grid& g, int row, int column) {
    const T s = side(v, T(row), T(column)), t = depth(v, T(row), T(column)), u = element(d, s, t);
    if (!(u > T(-1) && u < T(g.detectors))) return 0;
    int k = int(u + T(1)) - 1;
    T f = u - T(k), value = 0;
    if (k >= 0) value += (T(1) - f) * values[k];
    if (k + 1 < g.detectors) value += f * values[k + 1];
    if (d.beam == PARALLEL) return value;
    return value / (d.beam == CURVED ? s * s + t * t : t * t);
}

}  // namespace recon
