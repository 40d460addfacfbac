"""The cases of the gallery by family: each is a scene, named after its change to the base."""

from __future__ import annotations

from dataclasses import replace

from gallery_scans import Scene

BASE = Scene()


def _of(field: str, *values: object, base: Scene = BASE, form: str = "{}") -> dict[str, Scene]:
    return {form.format(v): replace(base, **{field: v}) for v in values}  # type: ignore[arg-type]


_LINES = {
    "equispaced, exact R": replace(BASE, mask="fraction"),
    "random lines": replace(BASE, mask="random"),
    "variable density": replace(BASE, mask="variable"),
    "Poisson disc": replace(BASE, mask="poisson"),
    "CAIPI 2 × 2": replace(BASE, mask="caipi"),
    "random points": replace(BASE, mask="random points"),
    "distances 2 and 6 in turn": replace(BASE, mask="alternating"),
    "gaps of a ninth": replace(BASE, mask="gaps"),
    "one side alone": replace(BASE, mask="one side"),
    "partial Fourier 7/8": replace(BASE, partial=0.875),
    "partial Fourier 6/8": replace(BASE, partial=0.75),
    "partial Fourier 5/8": replace(BASE, partial=0.625),
    "random lines, partial Fourier 6/8": replace(BASE, mask="random", partial=0.75),
    "R = 8, partial Fourier 6/8": replace(BASE, R=8, acs=16, partial=0.75),
}

#: Families of cases by name.
CASES: dict[str, dict[str, Scene]] = {
    "body": {
        **_of("body", "T1", "T2", "FLAIR", "T1 contrast", "tumour", "knee", "heart", "head CT"),
        **_of("body", "ellipses", "rods", "text", "lines"),
    },
    "body, R = 8": _of(
        "body", "T2", "FLAIR", "tumour", "knee", "heart", "rods", "text", "lines", base=replace(BASE, R=8, acs=16)
    ),
    "grey": {
        **_of("grey", "inverted", "dark", "saturated", "posterised"),
        **_of("lesion", "void", "bright spots", "faint disc", "needle"),
        "metal": replace(BASE, lesion="void", phase="metal"),
    },
    "phase": _of("phase", "none", "steep", "fat and water", "metal", "rough"),
    "noise": {
        **_of("noise", 0.0003, 0.0005, 0.002, 0.005, 0.02, 0.05, 0.1, 0.2, form="noise {}"),
        **_of("noise", 0.002, 0.05, 0.1, base=replace(BASE, R=8, acs=16), form="noise {}, R = 8"),
        **_of("noise", 0.002, 0.05, 0.2, base=replace(BASE, noise_scan=True), form="noise {}, noise scan"),
        "no noise at all": replace(BASE, noise=0.0),
        "nothing but noise": replace(BASE, body="nothing", noise=0.05),
    },
    "acceleration": {
        **_of("R", 1.5, 2.5, 3.3, 5.5, base=replace(BASE, mask="fraction"), form="R = {} exact"),
        **_of("R", 2, 3, 5, 6, 8, 10, 12, form="R = {}"),
        **_of("R", 6, 8, 12, base=replace(BASE, mask="random", acs=12), form="R = {} random"),
    },
    "ACS": {
        **_of("acs", 8, 10, 12, 16, 32, 48, form="{} ACS lines"),
        **_of("acs", 8, 32, base=replace(BASE, R=8), form="{} ACS lines, R = 8"),
    },
    "lines": _LINES,
    "coils": {
        **_of("coils", 2, 3, 5, 17, 32, 64, form="{} coils"),
        **_of("coils", 1, base=replace(BASE, mask="random", R=2), form="one coil, random R = 2"),
        **_of("coils", 1, base=replace(BASE, mask="variable", R=3), form="one coil, R = 3"),
        "one coil, equispaced R = 2": replace(BASE, coils=1, R=2),
        "one coil, Poisson disc": replace(BASE, coils=1, mask="poisson"),
        **_of(
            "array", "dead coil", "one noisy coil", "one coil of noise alone", "correlated noise",
            "one coil 300 times the others", "half of the coils at a tenth", "tiny numbers", "huge numbers",
        ),
    },
    "matrix": {
        "64 × 64": replace(BASE, shape=(64, 64), acs=12),
        "96 × 96": replace(BASE, shape=(96, 96), acs=16),
        "127 × 131": replace(BASE, shape=(127, 131)),
        "191 × 193": replace(BASE, shape=(191, 193)),
        "96 × 288": replace(BASE, shape=(96, 288), acs=16),
        "288 × 96": replace(BASE, shape=(288, 96)),
        "320 × 320": replace(BASE, shape=(320, 320)),
        "512 × 512": replace(BASE, shape=(512, 512), coils=4),
        "pixels 2 to 1": replace(BASE, shape=(96, 192), acs=16, fault="pixels 2 to 1"),
        "oversampled readout": replace(BASE, fault="oversampled readout"),
        "field of view .8 of the body": replace(BASE, room=(0.8, 1.25)),
        "field of view .6 of the body": replace(BASE, room=(0.6, 1.25)),
        "body in a third of the field": replace(BASE, room=(3.0, 3.0)),
    },
    "stored": _of("fault", "Hamming filter", "interpolated 0.8", "interpolated 0.5", "clipped"),
    "faults": {
        **_of(
            "fault", "motion in the middle of the scan", "motion between shots", "ghost", "gain drifts", "gain jumps",
            "phase drifts", "phase drifts by 25°", "phase wanders 4°", "phase wanders 12°", "a line lost",
            "a line lost beside the ACS", "rows one off", "spike", "drops to half in T2 decay",
        ),
        **_of(
            "fault", "calibration of the same slice", "calibration of another slice",
            "calibration before the patient moved", base=replace(BASE, acs=0),
        ),
    },
}  # fmt: skip
