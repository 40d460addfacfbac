// The kernels as a Python module. It is compiled once for each level of vector instructions (RECON_MODULE names the
// level); kernels/build.py imports the best one that the processor supports.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "eigen.h"
#include "features.h"
#include "haar.h"
#include "rays_module.h"
#include "sense.h"
#include "toeplitz.h"
#include "vectors.h"
#include "walsh.h"
#include "wavelet.h"

namespace py = pybind11;
using recon::complex64;
using recon::Encoding;

typedef py::array_t<complex64, py::array::c_style> Complex;
typedef py::array_t<float, py::array::c_style> Real;

// maps (item, set, coil, z, y, x), weights (item, z, ky), k = (kz, ky) the lengths of the transforms, and `any` whether
// they may have prime factors above 13
static Encoding encoding(const Complex& maps, const Real& weights, long items, int kz, int ky, bool any) {
    if (maps.ndim() != 6 || weights.ndim() != 3) throw std::invalid_argument("maps need six axes and weights three");
    recon::Sizes s{items, long(maps.shape(0)), long(weights.shape(0)), int(maps.shape(1)), int(maps.shape(2)),
                   int(maps.shape(3)), int(maps.shape(4)), int(maps.shape(5)), kz, ky};
    bool fits = (s.map_items == 1 || s.map_items == items) && (s.weight_items == 1 || s.weight_items == items) &&
                weights.shape(2) == ky && ky >= s.ny && (kz == 1 || kz >= s.nz) &&
                (weights.shape(1) == kz || (kz == 1 && weights.shape(1) == s.nz));
    if (!fits) throw std::invalid_argument("the shapes of maps, weights and transforms do not fit each other");
    Encoding e(s, maps.data(), weights.data(), int(weights.shape(1)));
    if (!any && (e.py->n == 0 || e.pz->n == 0)) throw std::invalid_argument("a transform's length has a prime factor above 13");
    return e;
}

static void check(const Complex& a, std::initializer_list<long> shape) {
    bool same = a.ndim() == py::ssize_t(shape.size());
    int axis = 0;
    for (long n : shape) same = same && a.shape(axis++) == n;
    if (!same) throw std::invalid_argument("an image or k-space array does not fit the maps");
}

static void sense_normal(const Complex& x, const Complex& maps, const Real& weights, int kz, int ky, Complex& out,
                         int threads) {
    Encoding e = encoding(maps, weights, x.shape(0), kz, ky, false);
    for (const Complex* a : {&x, static_cast<const Complex*>(&out)}) check(*a, {e.s.items, e.s.sets, e.s.nz, e.s.ny, e.s.nx});
    const complex64* from = x.data();
    complex64* to = out.mutable_data();
    py::gil_scoped_release released;
    recon::normal(e, from, to, threads);
}

static void sense_encode(const Complex& x, const Complex& maps, const Real& weights, bool volume, Complex& y,
                         int threads) {
    Encoding e = encoding(maps, weights, x.shape(0), volume ? int(maps.shape(3)) : 1, int(maps.shape(4)), true);
    check(x, {e.s.items, e.s.sets, e.s.nz, e.s.ny, e.s.nx});
    check(y, {e.s.items, e.s.coils, e.s.nz, e.s.ny, e.s.nx});
    const complex64* from = x.data();
    complex64* to = y.mutable_data();
    py::gil_scoped_release released;
    recon::encode(e, from, to, threads);
}

static void sense_decode(const Complex& y, const Complex& maps, const Real& weights, bool volume, Complex& x,
                         int threads) {
    Encoding e = encoding(maps, weights, x.shape(0), volume ? int(maps.shape(3)) : 1, int(maps.shape(4)), true);
    check(x, {e.s.items, e.s.sets, e.s.nz, e.s.ny, e.s.nx});
    check(y, {e.s.items, e.s.coils, e.s.nz, e.s.ny, e.s.nx});
    const complex64* from = y.data();
    complex64* to = x.mutable_data();
    py::gil_scoped_release released;
    recon::decode(e, from, to, threads);
}

// kernels (z, y, lag, entry), waves (x, lag), reference (coil); writes planes first ... first + z of maps (coil, Z, y,
// x) and values (Z, y, x)
static void eigenmaps(const Complex& kernels, const Complex& waves, const Complex& reference, Complex& maps, Real& values,
                      int first, float least, float tolerance, int iterations, int threads) {
    bool fits = kernels.ndim() == 4 && waves.ndim() == 2 && reference.ndim() == 1 && maps.ndim() == 4 &&
                values.ndim() == 3;
    const long coils = fits ? reference.shape(0) : 0;
    fits = fits && coils > 0 && kernels.shape(3) == coils * (coils + 1) / 2 && maps.shape(0) == coils &&
           waves.shape(1) == kernels.shape(2) && waves.shape(1) > 0 && maps.shape(2) == kernels.shape(1) &&
           maps.shape(3) == waves.shape(0) && first >= 0 && first + kernels.shape(0) <= maps.shape(1);
    for (int axis = 0; fits && axis < 3; ++axis) fits = values.shape(axis) == maps.shape(axis + 1);
    if (!fits) throw std::invalid_argument("the shapes of kernels, waves, maps and values do not fit each other");
    const long plane = maps.shape(2) * maps.shape(3);
    recon::EigenSizes s{int(coils), int(waves.shape(1)), int(kernels.shape(0)), int(maps.shape(2)), int(maps.shape(3)),
                        long(maps.shape(1)) * plane};
    complex64* to = maps.mutable_data() + first * plane;
    float* value = values.mutable_data() + first * plane;
    py::gil_scoped_release released;
    recon::eigenmaps(s, {least, tolerance, iterations}, kernels.data(), waves.data(), reference.data(), to, value, threads);
}

// images (coil, z, y, x), reference (coil), windows (z, y, x) odd; writes maps (coil, z, y, x) and values (z, y, x)
static void local_maps(const Complex& images, const Complex& reference, std::array<int, 3> windows, float tolerance,
                       Complex& maps, Real& values, int threads) {
    bool fits = images.ndim() == 4 && maps.ndim() == 4 && values.ndim() == 3 && reference.ndim() == 1 &&
                reference.shape(0) == images.shape(0) && images.shape(0) > 0;
    for (int axis = 0; fits && axis < 4; ++axis) fits = maps.shape(axis) == images.shape(axis);
    for (int axis = 0; fits && axis < 3; ++axis)
        fits = values.shape(axis) == images.shape(axis + 1) && windows[axis] > 0 && windows[axis] % 2 == 1;
    if (!fits) throw std::invalid_argument("images, reference, windows, maps and values do not fit each other");
    recon::Windows s{int(images.shape(0)), int(images.shape(1)), int(images.shape(2)), int(images.shape(3)),
                     windows[0], windows[1], windows[2]};
    complex64* to = maps.mutable_data();
    float* value = values.mutable_data();
    py::gil_scoped_release released;
    recon::local_maps(s, tolerance, images.data(), reference.data(), to, value, threads);
}

// One level along an axis (0 z, 1 y, 2 x) of the corner of x (item, z, y, x), in place.
static void wavelet_seamed(Complex& x, std::array<int, 3> corner, int axis, const Real& taps, const std::vector<int>& rows,
                          const std::vector<int>& columns, const Real& seam, bool inverse, int threads) {
    if (x.ndim() != 4 || axis < 0 || axis > 2 || taps.ndim() != 1 || taps.shape(0) % 2)
        throw std::invalid_argument("a level needs four axes and an even filter");
    if (seam.ndim() != 2 || seam.shape(0) != long(rows.size()) || seam.shape(1) != long(columns.size()))
        throw std::invalid_argument("a seam has a row for each row and a column for each column");
    for (const std::vector<int>* some : {&rows, &columns})
        for (int i : *some)
            if (i < 0 || i >= corner[axis]) throw std::invalid_argument("the seam lies outside of the axis");
    int size[3];
    for (int a = 0; a < 3; ++a) {
        size[a] = int(x.shape(a + 1));
        if (corner[a] < 1 || corner[a] > size[a]) throw std::invalid_argument("the corner is larger than the image");
    }
    if (taps.shape(0) > corner[axis]) throw std::invalid_argument("the filter is longer than the axis");
    recon::Filters filters(taps.data(), int(taps.shape(0)));
    filters.rows = rows, filters.columns = columns;
    filters.seam.assign(seam.data(), seam.data() + seam.size());
    const long items = x.shape(0);
    complex64* data = x.mutable_data();
    py::gil_scoped_release released;
    if (inverse) recon::wavelet_level<true>(data, items, size, corner.data(), axis, filters, threads);
    else recon::wavelet_level<false>(data, items, size, corner.data(), axis, filters, threads);
}

static void wavelet_level(Complex& x, std::array<int, 3> corner, int axis, const Real& taps, bool inverse, int threads) {
    if (axis >= 0 && axis <= 2 && corner[axis] % 2)
        throw std::invalid_argument("a level of an odd length needs its seam");
    wavelet_seamed(x, corner, axis, taps, {}, {}, Real(std::vector<py::ssize_t>{0, 0}), inverse, threads);
}

// All levels of x (item, y, x) into out, rotated by `shift` before, or back by it after the inverse.
static void haar(const Complex& x, Complex& out, int levels, std::array<int, 2> shift, bool inverse, int threads) {
    if (x.ndim() != 3 || levels < 1 || levels > 30) throw std::invalid_argument("planes (item, y, x) and a level are needed");
    check(out, {long(x.shape(0)), long(x.shape(1)), long(x.shape(2))});
    const int ny = int(x.shape(1)), nx = int(x.shape(2)), least = 1 << levels;
    if (ny < least || nx < least || ny % least || nx % least) throw std::invalid_argument("a side does not halve evenly");
    for (int a = 0; a < 2; ++a)
        if (shift[a] < 0 || shift[a] >= (a ? nx : ny)) throw std::invalid_argument("the shift is longer than the side");
    const complex64* from = x.data();
    complex64* to = out.mutable_data();
    const long items = x.shape(0);
    if (from == to) throw std::invalid_argument("the transform is not made in place");
    py::gil_scoped_release released;
    if (inverse) recon::haar<true>(from, to, items, ny, nx, levels, shift.data(), threads);
    else recon::haar<false>(from, to, items, ny, nx, levels, shift.data(), threads);
}

// x max(0, 1 - (threshold / |x|)^exponent), in place.
static void shrink(Complex& x, float threshold, float exponent, int threads) {
    complex64* data = x.mutable_data();
    const long n = x.size();
    py::gil_scoped_release released;
    using recon::Power;
    if (exponent == 1) recon::shrink<Power::one>(data, n, threshold, exponent, threads);
    else if (exponent == 1.5f) recon::shrink<Power::three_halves>(data, n, threshold, exponent, threads);
    else if (exponent == 2) recon::shrink<Power::two>(data, n, threshold, exponent, threads);
    else recon::shrink<Power::any>(data, n, threshold, exponent, threads);
}

// x and out (item, y, x); spectra (4, kernel, y, x) in the FFT's order and scaled; which (item) is the kernel's number.
static void toeplitz(const Complex& x, const Real& spectra, const py::array_t<int, py::array::c_style>& which,
                     Complex& out, int threads) {
    if (x.ndim() != 3 || spectra.ndim() != 4 || which.ndim() != 1) throw std::invalid_argument("axes are missing");
    check(out, {long(x.shape(0)), long(x.shape(1)), long(x.shape(2))});
    bool fits = spectra.shape(0) == 4 && spectra.shape(2) == x.shape(1) && spectra.shape(3) == x.shape(2) &&
                which.shape(0) == x.shape(0);
    for (py::ssize_t i = 0; fits && i < which.shape(0); ++i) fits = which.at(i) >= 0 && which.at(i) < spectra.shape(1);
    if (!fits) throw std::invalid_argument("the spectra do not fit the images");
    const int ny = int(x.shape(1)), nx = int(x.shape(2));
    if (!recon::plan(ny)->n || !recon::plan(nx)->n)
        throw std::invalid_argument("a transform's length has a prime factor above 13");
    const complex64* from = x.data();
    complex64* to = out.mutable_data();
    const float* k = spectra.data();
    const int* kernel = which.data();
    const long items = x.shape(0), kernels = spectra.shape(1);
    py::gil_scoped_release released;
    recon::toeplitz(from, to, k, kernel, items, kernels, ny, nx, threads);
}

typedef py::array_t<double, py::array::c_style> Double;

// Arrays (item, n) of float32 with one shape, and a number for each item.
static void same(std::initializer_list<const Real*> arrays, const Real* numbers) {
    const Real& first = **arrays.begin();
    if (first.ndim() != 2) throw std::invalid_argument("vectors need the axes (item, n)");
    for (const Real* a : arrays)
        if (a->ndim() != 2 || a->shape(0) != first.shape(0) || a->shape(1) != first.shape(1))
            throw std::invalid_argument("the vectors differ in shape");
    if (numbers && (numbers->ndim() != 1 || numbers->shape(0) != first.shape(0)))
        throw std::invalid_argument("one number is needed for each vector");
}

static Double dot(const Real& a, const Real& b, int threads) {
    same({&a, &b}, nullptr);
    Double out(a.shape(0));
    const float *p = a.data(), *q = b.data();
    double* to = out.mutable_data();
    const long items = a.shape(0), n = a.shape(1);
    {
        py::gil_scoped_release released;
        recon::dot(p, q, items, n, to, threads);
    }
    return out;
}

static Double curvature(const Real& p, Real& q, const Real& shift, int threads) {
    same({&p, &q}, &shift);
    Double out(p.shape(0));
    const float *a = p.data(), *s = shift.data();
    float* b = q.mutable_data();
    double* to = out.mutable_data();
    const long items = p.shape(0), n = p.shape(1);
    {
        py::gil_scoped_release released;
        recon::curvature(a, b, s, items, n, to, threads);
    }
    return out;
}

static Double advance(Real& x, const Real& p, Real& r, const Real& q, const Real& step, int threads) {
    same({&x, &p, &r, &q}, &step);
    Double out(p.shape(0));
    const float *b = p.data(), *d = q.data(), *s = step.data();
    float *a = x.mutable_data(), *c = r.mutable_data();
    double* to = out.mutable_data();
    const long items = p.shape(0), n = p.shape(1);
    {
        py::gil_scoped_release released;
        recon::advance(a, b, c, d, s, items, n, to, threads);
    }
    return out;
}

static void turn(Real& p, const Real& r, const Real& beta, int threads) {
    same({&p, &r}, &beta);
    float* a = p.mutable_data();
    const float *b = r.data(), *s = beta.data();
    const long items = p.shape(0), n = p.shape(1);
    py::gil_scoped_release released;
    recon::turn(a, b, s, items, n, threads);
}

// x (pixel, channel) in place; `joined` (pixel, more channels), if given, receives a copy from its channel `first` on.
static void rectify(Real& x, float floor, float slope, py::object joined, long first, int threads) {
    if (x.ndim() != 2 || x.size() == 0) throw std::invalid_argument("features have the axes pixel and channel, and some of each");
    const long pixels = x.shape(0), channels = x.shape(1);
    float *values = x.mutable_data(), *out = nullptr;
    long width = 0;
    if (!joined.is_none()) {
        Real whole = py::cast<Real>(joined);
        if (whole.ptr() != joined.ptr() || whole.ndim() != 2 || whole.shape(0) != pixels || first < 0 ||
            first + channels > whole.shape(1))
            throw std::invalid_argument("the joined features do not hold these from that channel on");
        out = whole.mutable_data() + first, width = whole.shape(1);
    }
    py::gil_scoped_release released;
    recon::rectify(values, pixels, int(channels), floor, slope, out, width, threads);
}

PYBIND11_MODULE(RECON_MODULE, m) {
    m.doc() = "Kernels of the reconstruction engine for the CPU.";
    m.attr("lanes") = recon::LANES;
    m.attr("any_length") = true;  // of sense_encode and sense_decode
    m.def("sense_normal", &sense_normal, py::arg("x").noconvert(), py::arg("maps").noconvert(),
          py::arg("weights").noconvert(), py::arg("kz"), py::arg("ky"), py::arg("out").noconvert(), py::arg("threads"));
    m.def("sense_encode", &sense_encode, py::arg("x").noconvert(), py::arg("maps").noconvert(),
          py::arg("weights").noconvert(), py::arg("volume"), py::arg("y").noconvert(), py::arg("threads"));
    m.def("sense_decode", &sense_decode, py::arg("y").noconvert(), py::arg("maps").noconvert(),
          py::arg("weights").noconvert(), py::arg("volume"), py::arg("x").noconvert(), py::arg("threads"));
    m.def("eigenmaps", &eigenmaps, py::arg("kernels").noconvert(), py::arg("waves").noconvert(),
          py::arg("reference").noconvert(), py::arg("maps").noconvert(), py::arg("values").noconvert(), py::arg("first"),
          py::arg("least"), py::arg("tolerance"), py::arg("iterations"), py::arg("threads"));
    m.def("local_maps", &local_maps, py::arg("images").noconvert(), py::arg("reference").noconvert(), py::arg("windows"),
          py::arg("tolerance"), py::arg("maps").noconvert(), py::arg("values").noconvert(), py::arg("threads"));
    m.def("wavelet_level", &wavelet_level, py::arg("x").noconvert(), py::arg("corner"), py::arg("axis"),
          py::arg("taps").noconvert(), py::arg("inverse"), py::arg("threads"));
    m.def("wavelet_seamed", &wavelet_seamed, py::arg("x").noconvert(), py::arg("corner"), py::arg("axis"),
          py::arg("taps").noconvert(), py::arg("rows"), py::arg("columns"), py::arg("seam").noconvert(),
          py::arg("inverse"), py::arg("threads"));
    m.def("haar", &haar, py::arg("x").noconvert(), py::arg("out").noconvert(), py::arg("levels"), py::arg("shift"),
          py::arg("inverse"), py::arg("threads"));
    m.def("shrink", &shrink, py::arg("x").noconvert(), py::arg("threshold"), py::arg("exponent"), py::arg("threads"));
    m.def("toeplitz", &toeplitz, py::arg("x").noconvert(), py::arg("spectra").noconvert(),
          py::arg("which").noconvert(), py::arg("out").noconvert(), py::arg("threads"));
    m.def("dot", &dot, py::arg("a").noconvert(), py::arg("b").noconvert(), py::arg("threads"));
    m.def("curvature", &curvature, py::arg("p").noconvert(), py::arg("q").noconvert(), py::arg("shift").noconvert(),
          py::arg("threads"));
    m.def("advance", &advance, py::arg("x").noconvert(), py::arg("p").noconvert(), py::arg("r").noconvert(),
          py::arg("q").noconvert(), py::arg("step").noconvert(), py::arg("threads"));
    m.def("turn", &turn, py::arg("p").noconvert(), py::arg("r").noconvert(), py::arg("beta").noconvert(),
          py::arg("threads"));
    m.def("rectify", &rectify, py::arg("x").noconvert(), py::arg("floor"), py::arg("slope"), py::arg("joined"),
          py::arg("first"), py::arg("threads"));
    define_projector<float>(m);
    define_projector<double>(m);
    define_cone<float>(m);
    define_cone<double>(m);
}
