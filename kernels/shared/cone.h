// Cone-beam projection by Joseph's method: the arithmetic of one column of rays and of one column of voxels, for the CPU
// and for CUDA.
//
// The rays of one detector column lie in a plane that contains the axis' direction: seen along the axis they are one
// ray of a fan (projector.h), which crosses line l of the image at at + slope l. There they have covered the share tau
// + rate l of their path from the source to the detector, and the ray of detector row w is at the height
//
//     level(w, l) = low + (w - centre) per (tau + rate l)      in slices,
//
// so that (A x)(w) = length(w) sum_l sum_pixel sum_slice hat(crossing - pixel) hat(level - slice) x(slice, l, pixel).
// The transpose gathers the same products. The kernels do not apply the lengths: the caller multiplies by them, here
// after and there before. The detector is flat, its rows perpendicular to the axis of rotation like the slices.
//
// P. M. Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE Trans. Med. Imaging 1 (1982).
#pragma once

#include "projector.h"

namespace recon {

template <class T>
struct Track {
    T at, slope, step, tau, rate;  // step < 0: crosses columns, as in Ray
};

// Heights in slices; `near` converts a depth in source distances to a share of the path to the detector.
template <class T>
struct Tower {
    T low, centre, per, near;
};

struct Volume {
    int slices, rows, columns;
};

struct Panel {
    int rows, views, columns;
};

// Sums for the rays of N rows from `first` on, without their lengths; `deep`, `next_row` and `next` are the strides of
// the volume.
template <int N, class T>
RECON_INLINE void project(const Track<T>& t, const Tower<T>& s, const T* x, const Volume& v, long deep, long next_row,
                          long next, int first, T* sums) {
    const bool across = t.step > 0;
    const int lines = across ? v.rows : v.columns, width = across ? v.columns : v.rows;
    const long line_step = across ? next_row : next, along = across ? next : next_row;
    T rise[N];
    for (int n = 0; n < N; ++n) rise[n] = (T(first + n) - s.centre) * s.per, sums[n] = 0;
    for (int line = 0; line < lines; ++line) {
        const T at = t.at + t.slope * T(line);
        if (!(at > T(-1) && at < T(width))) continue;
        const int k = int(at + T(1)) - 1;
        const T f = at - T(k), share = t.tau + t.rate * T(line);
        const T left = k >= 0 ? T(1) - f : T(0), right = k + 1 < width ? f : T(0);
        const T* a = x + line * line_step + (k < 0 ? 0 : k) * along;
        const T* b = x + line * line_step + (k + 1 < width ? k + 1 : k) * along;
        for (int n = 0; n < N; ++n) {
            T z = s.low + rise[n] * share;
            z = z < T(-1) ? T(-1) : z;
            z = z > T(v.slices) ? T(v.slices) : z;
            const int m = int(z + T(1)) - 1;
            const T h = z - T(m);
            const T lower = m >= 0 && m < v.slices ? T(1) - h : T(0), upper = m + 1 < v.slices ? h : T(0);
            const long i = (m < 0 ? 0 : m < v.slices ? m : v.slices - 1) * deep;
            const long j = (m + 1 < v.slices ? m + 1 : v.slices - 1) * deep;
            sums[n] += lower * (left * a[i] + right * b[i]) + upper * (left * a[j] + right * b[j]);
        }
    }
}

// Calls found(u, beside, share) for the detector columns u of one view whose rays pass the voxels at one position in
// the plane: the weight of their crossing in it, and the share of their path at which it lies.
template <class T, class Found>
RECON_INLINE void passes(const View<T>& v, const Detector<T>& d, const Track<T>* tracks, const Panel& panel, int row,
                         int column, Found found) {
    for (int across = 0; across < 2; ++across) {
        const T i = T(across ? 0 : 1), j = T(across ? 1 : 0), r = T(row), c = T(column);
        const T a = element(d, side(v, r - i, c - j), depth(v, r - i, c - j));
        const T b = element(d, side(v, r + i, c + j), depth(v, r + i, c + j));
        const T low = (a < b ? a : b) - d.margin, high = (a < b ? b : a) + d.margin;
        if (!(high > 0 && low < T(panel.columns))) continue;
        for (int u = low < 0 ? 0 : int(low); u < panel.columns && T(u) < high; ++u) {
            const Track<T> t = tracks[u];
            if ((t.step > 0) != bool(across)) continue;
            const T line = across ? r : c, beside = hat(t.at + t.slope * line - (across ? c : r));
            if (beside > 0) found(u, beside, t.tau + t.rate * line);
        }
    }
}

// What the rays of one detector column, `seen` with the stride `up`, add to the voxels of slices [first, first +
// count).
template <class T>
RECON_INLINE void spread(const Tower<T>& s, const T* seen, long up, T margin, const Panel& panel, T beside, T share,
                         int first, int count, T* sums) {
    const T rows = s.per * share;
    const T from = s.centre + (T(first - 1) - s.low) / rows - margin;
    const T to = s.centre + (T(first + count) - s.low) / rows + margin;
    if (!(to > 0 && from < T(panel.rows))) return;
    for (int w = from < 0 ? 0 : int(from); w < panel.rows && T(w) < to; ++w) {
        // As in project: the ray lies between slices m and m + 1
        const T z = s.low + (T(w) - s.centre) * s.per * share - T(first), value = beside * seen[w * up];
        if (!(z > T(-1) && z < T(count))) continue;
        const int m = int(z + T(1)) - 1;
        const T h = z - T(m);
        if (m >= 0) sums[m] += (T(1) - h) * value;
        if (m + 1 < count) sums[m + 1] += h * value;
    }
}

// What the rays of one view add to the same voxels at one position in the plane; `tracks` and `values` are those of the
// view, `up` and `next` the strides of the values from row to row and from column to column.
template <class T>
RECON_INLINE void gather(const View<T>& v, const Detector<T>& d, const Track<T>* tracks, const Tower<T>& s,
                         const T* values, long up, long next, const Panel& panel, int row, int column, int first, int count, T* sums) {
    passes(v, d, tracks, panel, row, column, [&](int u, T beside, T share) {
        spread(s, values + u * next, up, d.margin, panel, beside, share, first, count, sums);
    });
}

// What one view adds to the same voxels in filtered backprojection: the filtered value at the voxel's position on the
// detector, interpolated linearly, over its squared depth.
template <class T>
RECON_INLINE void smear(const View<T>& v, const Detector<T>& d, const Tower<T>& s, const T* values, long up, long next,
                        const Panel& panel, int row, int column, int first, int count, T* sums) {
    const T far = depth(v, T(row), T(column)), u = element(d, side(v, T(row), T(column)), far);
    if (!(u > T(-1) && u < T(panel.columns))) return;
    const int m = int(u + T(1)) - 1;
    const T f = u - T(m), weight = T(1) / (far * far), rows = s.per * s.near * far;
    const T left = m >= 0 ? (T(1) - f) * weight : T(0), right = m + 1 < panel.columns ? f * weight : T(0);
    const T* a = values + (m < 0 ? 0 : m) * next;
    const T* b = values + (m + 1 < panel.columns ? m + 1 : m) * next;
    for (int n = 0; n < count; ++n) {
        const T w = s.centre + (T(first + n) - s.low) / rows;
        if (!(w > T(-1) && w < T(panel.rows))) continue;
        const int k = int(w + T(1)) - 1;
        const T h = w - T(k);
        if (k >= 0) sums[n] += (T(1) - h) * (left * a[k * up] + right * b[k * up]);
        if (k + 1 < panel.rows) sums[n] += h * (left * a[(k + 1) * up] + right * b[(k + 1) * up]);
    }
}

}  // namespace recon
