// The projectors of module.cpp: their shapes, and their names in Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "cone.h"
#include "projector.h"

namespace py = pybind11;

// One projector in one precision: rays (view, detector, 3), views (view, 6), detector (beam, centre, per, margin).
template <class T>
struct Projector {
    typedef py::array_t<T, py::array::c_style> Array;
    const recon::Ray<T>* rays;
    const recon::View<T>* views;
    recon::Detector<T> d;
    recon::Grid g;
    long items;

    Projector(const Array& image, const Array& sinogram, const Array* r, const Array& v, int beam, double centre, double per,
              double margin)
        : rays(r ? reinterpret_cast<const recon::Ray<T>*>(r->data()) : nullptr),
          views(reinterpret_cast<const recon::View<T>*>(v.data())), d{beam, T(centre), T(per), T(margin)} {
        bool fits = image.ndim() == 3 && sinogram.ndim() == 3 && image.shape(0) == sinogram.shape(0) && v.ndim() == 2 &&
                    v.shape(0) == sinogram.shape(1) && v.shape(1) == 6 && beam >= 0 && beam <= recon::CURVED;
        if (fits && r) fits = r->ndim() == 3 && r->shape(0) == v.shape(0) && r->shape(1) == sinogram.shape(2) && r->shape(2) == 3;
        if (!fits) throw std::invalid_argument("the shapes of images, sinograms, rays and views do not fit each other");
        g = {int(image.shape(1)), int(image.shape(2)), int(sinogram.shape(1)), int(sinogram.shape(2))};
        items = image.shape(0);
    }
};

template <class T>
static void define_projector(py::module_& m) {
    typedef Projector<T> P;
    typedef typename P::Array Array;
    auto project = [](const Array& x, const Array& r, const Array& v, int beam, double centre, double per, double margin,
                      Array& y, int threads) {
        P p(x, y, &r, v, beam, centre, per, margin);
        const T* from = x.data();
        T* to = y.mutable_data();
        py::gil_scoped_release free;
        recon::xray_project(from, p.rays, p.g, p.items, to, threads);
    };
    auto adjoint = [](const Array& y, const Array& r, const Array& v, int beam, double centre, double per, double margin,
                      Array& x, int threads) {
        P p(x, y, &r, v, beam, centre, per, margin);
        const T* from = y.data();
        T* to = x.mutable_data();
        py::gil_scoped_release free;
        recon::xray_adjoint(from, p.rays, p.views, p.d, p.g, p.items, to, threads);
    };
    auto smear = [](const Array& y, const Array& v, int beam, double centre, double per, double margin, Array& x,
                    int threads) {
        P p(x, y, nullptr, v, beam, centre, per, margin);
        const T* from = y.data();
        T* to = x.mutable_data();
        py::gil_scoped_release free;
        recon::xray_smear(from, p.views, p.d, p.g, p.items, to, threads);
    };
    const py::arg beam("beam"), centre("centre"), per("per"), margin("margin"), threads("threads");
    m.def("xray_project", project, py::arg("image").noconvert(), py::arg("rays").noconvert(), py::arg("views").noconvert(),
          beam, centre, per, margin, py::arg("sinogram").noconvert(), threads);
    m.def("xray_adjoint", adjoint, py::arg("sinogram").noconvert(), py::arg("rays").noconvert(),
          py::arg("views").noconvert(), beam, centre, per, margin, py::arg("image").noconvert(), threads);
    m.def("xray_smear", smear, py::arg("sinogram").noconvert(), py::arg("views").noconvert(), beam, centre, per, margin,
          py::arg("image").noconvert(), threads);
}

// One cone beam in one precision: tracks (view, column, 5), views (view, 6), frame: the Detector's and the Tower's numbers.
template <class T>
static void define_cone(py::module_& m) {
    typedef py::array_t<T, py::array::c_style> Array;
    struct Cone {
        const recon::Track<T>* tracks;
        const recon::View<T>* views;
        recon::Detector<T> d;
        recon::Tower<T> s;
        recon::Volume v;
        recon::Panel p;
        long items;

        Cone(const Array& volume, const Array& sinogram, const Array& t, const Array& views, const Array& f)
            : tracks(reinterpret_cast<const recon::Track<T>*>(t.data())),
              views(reinterpret_cast<const recon::View<T>*>(views.data())) {
            bool fits = volume.ndim() == 4 && sinogram.ndim() == 4 && volume.shape(0) == sinogram.shape(0) &&
                        t.ndim() == 3 && t.shape(0) == sinogram.shape(2) && t.shape(1) == sinogram.shape(3) &&
                        t.shape(2) == 5 && views.ndim() == 2 && views.shape(0) == sinogram.shape(2) && views.shape(1) == 6 &&
                        f.ndim() == 1 && f.shape(0) == 7;
            if (!fits) throw std::invalid_argument("the shapes of volumes, sinograms, tracks and views do not fit each other");
            const T* n = f.data();
            d = {recon::FLAT, n[0], n[1], n[2]};
            s = {n[3], n[4], n[5], n[6]};
            v = {int(volume.shape(1)), int(volume.shape(2)), int(volume.shape(3))};
            p = {int(sinogram.shape(1)), int(sinogram.shape(2)), int(sinogram.shape(3))};
            items = volume.shape(0);
        }
    };
    auto define = [&m](const char* name, auto run) {
        auto call = [run](const Array& given, const Array& t, const Array& views, const Array& frame, Array& out,
                          bool forward, int threads) {
            const Cone c(forward ? given : out, forward ? out : given, t, views, frame);
            const T* from = given.data();
            T* to = out.mutable_data();
            py::gil_scoped_release free;
            run(c, from, to, threads);
        };
        m.def(name, call, py::arg("given").noconvert(), py::arg("tracks").noconvert(), py::arg("views").noconvert(),
              py::arg("frame").noconvert(), py::arg("out").noconvert(), py::arg("forward"), py::arg("threads"));
    };
    define("cone_project", [](const Cone& c, const T* from, T* to, int threads) {
        recon::cone_project(from, c.tracks, c.s, c.v, c.p, c.items, to, threads);
    });
    define("cone_adjoint", [](const Cone& c, const T* from, T* to, int threads) {
        recon::cone_adjoint(from, c.tracks, c.views, c.d, c.s, c.v, c.p, c.items, to, threads);
    });
    define("cone_smear", [](const Cone& c, const T* from, T* to, int threads) {
        recon::cone_smear(from, c.views, c.d, c.s, c.v, c.p, c.items, to, threads);
    });
}
