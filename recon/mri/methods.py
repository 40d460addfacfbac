"""The methods: which image explains a measurement, with regularisation in units of the whitened noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from recon import trust
from recon.data import Measurement
from recon.mri import networks
from recon.nets import columns, e2e_varnet, rephased, unrolled
from recon.prepare.refine import refined
from recon.recipe import Method, Prepare, Solve, Trust
from recon.solve import alternating, cg, detail, fista, folded, halves, pdhg, rows
from recon.solve.position import Position

#: Iterations of a method unless the recipe says otherwise.
ITERATIONS = {"sense": 50, "cs": 60, "tv": 150}


def solve(method: Method, m: Measurement, recipe: Solve, *, power: float | None = None, sets: int = 1) -> Tensor:
    """The image (..., z, y, x), or (..., set, z, y, x), that explains the measurement.

        sense  min ‖Ax − y‖² + λ‖x‖²,        λ = l2 · (2σ² / power + 10⁻⁴)
        cs     min ½‖Ax − y‖² + λ‖Ψx‖_½,     λ = l1 · σ, a shrinkage that spares large coefficients more than l1's
        tv     min ½‖Ax − y‖² + λ TV(x),     λ = tv · σ
        unrolled  the network in `weights`, see `recon.nets.unrolled`

    2σ² is the noise power of a fully measured voxel and `power` the mean signal power of a voxel, by default from the
    energy of a Cartesian y (see `noise_to_signal`). One default thus serves every scan, whatever its scale. The
    constant is the power of the error caused by maps that are wrong by about 1 %: without it, a scan with very high SNR
    would be fitted beyond what its maps can explain.
    """
    ndim = 3 if sets == 1 else 4
    if method == "unrolled":
        return _unrolled(m, recipe, sets)[1]
    n = recipe.iterations or ITERATIONS[method]
    if method == "sense":
        b = m.A.adjoint(m.y)
        ratio = cg.noise_to_signal(m, ndim, b) if power is None else 2 * m.sigma**2 / power
        lam = recipe.l2 * (ratio + trust.MAPS_ERROR)
        # If the recipe gives a number of iterations, all are done: stopping early is regularisation, too.
        x = None if recipe.iterations else folded.exact(m.A, b, lam, ndim)
        if x is not None:
            return x
        return cg.cg(m.A.normal(), b, lam=lam, iterations=n, tolerance=recipe.tolerance, ndim=ndim).x
    if method == "cs":
        return fista.l1_wavelet(m, lam=recipe.l1, iterations=n, wavelet=recipe.wavelet, seed=recipe.seed, ndim=ndim).x
    return pdhg.tv(m, lam=recipe.tv, iterations=n, ndim=ndim).x


def varnet(y: Tensor, counts: Tensor, recipe: Solve) -> Tensor:
    """fastMRI's network on slices (item, coil, 1, ky, x) in hybrid space, with coils as the scanner stored them.

    `counts` (item, 1, ky) says how many lines were averaged into each. The image (item, z, y, x) is complex without
    phase, the root-sum-of-squares of the coils, in the units of y.
    """
    network = networks.load_fastmri(recipe.weights, str(y.device)).network
    return e2e_varnet.reconstruct(network, y, counts[:, 0] > 0).to(y.dtype)


def learned(
    m: Measurement,
    recipe: Solve,
    limits: Trust,
    *,
    sets: int = 1,
    instead: Method | None = None,
    decided: Sequence[trust.Evidence] | None = None,
    positions: Sequence[Position | None] = (),
    prepare: Prepare | None = None,
) -> tuple[Tensor, Sequence[trust.Evidence]]:
    """The network's images, or the classical ones if they are not trusted, and the evidence on each item.

    If images of large slices depend on the object's phase, they are made without it (`recon.nets.rephased`). The
    classical image is the network's start, or the image of the method `instead`. With `decided` the given evidence is
    used: replicas of an image are made like the image. With `refine_maps` both are made a second time, with ESPIRiT
    maps (settings of `prepare`) of the k-space that the first image completed. `positions` are the results of
    `recon.solve.position` for separate calibration lines.
    """
    ndim = 3 if sets == 1 else 4
    start, x = _unrolled(m, recipe, sets, limits.margin)
    if recipe.refine_maps and m.y.shape[-3] == 1:
        p, before = prepare or Prepare(), m
        m = refined(m, x, kernel=p.espirit_kernel, threshold=p.espirit_threshold, crop=p.espirit_crop)
        start, x = (start, x) if m is before else _unrolled(m, recipe, sets, limits.margin)
    found, phases = decided, list[rephased.Rephased | None]()
    if networks.draws(recipe.weights) if found is None else any(e.rephased_share for e in found):
        network = networks.load(recipe.weights, str(m.y.device)).network
        limit = limits.rephased if limits.fallback else math.inf
        x, phases = rephased.compared(network, m, x, start, limit=limit, denoise=recipe.denoise)
    if found is None:
        trained = networks.trained(recipe.weights)
        trained = trained.of(m.y.shape[1]) if trained else None
        heard = _witnesses(m, start, positions, phases, rows_too=limits.misplaced < 1)
        found = trust.examine(m, x, start, limits=limits, trained=trained, ndim=ndim, witnesses=heard)
    already = "cs" if m.y.shape[-3] > 1 else None
    if instead and instead != already and limits.fallback and any(e.reasons for e in found):
        start = solve(instead, m, recipe, sets=sets)
    return trust.chosen(x, start, found, fallback=limits.fallback, ndim=ndim), found


def _witnesses(
    m: Measurement,
    x: Tensor,
    positions: Sequence[Position | None],
    phases: Sequence[rephased.Rephased | None],
    *,
    rows_too: bool,
) -> list[trust.Witnesses]:
    """Test results for classical images x and the lines behind them, per item; rows only with `rows_too`."""
    details = detail.compared(m, x)
    none = [None] * len(details)
    lines = rows.sparser(m, [detail.doubtful(d) for d in details]) if rows_too else none
    parities, sides = alternating.compared(m), halves.compared(m, x)
    every = zip(lines, details, parities, sides, positions or none, phases or none, strict=True)
    return [trust.Witnesses(*one) for one in every]


def _unrolled(m: Measurement, recipe: Solve, sets: int, margin: float = Trust().margin) -> tuple[Tensor, Tensor]:
    """The network's start and its result: slices start from a wavelet image, volumes from that of `cs`.

    The columns of a volume's readout are slices for the network. A start that uses all three axes gains up to 0.9 dB
    over one from the column alone.
    """
    ndim = 3 if sets == 1 else 4
    network = networks.load(recipe.weights, str(m.y.device)).network
    if m.y.shape[-3] == 1:
        start = unrolled.classical(m, network.shape.start, ndim)
        return start, unrolled.reconstruct(network, m, denoise=recipe.denoise, ndim=ndim, start=start)
    start, trained = solve("cs", m, recipe, sets=sets), networks.trained(recipe.weights)
    most = min(1.0, margin * trained.noise[1]) if trained else 1.0
    return start, columns.reconstruct(network, m, start, denoise=recipe.denoise, ndim=ndim, most=most)
