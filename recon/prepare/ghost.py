"""The Nyquist ghost left by the navigators: the phase between forward and reversed lines, estimated from the lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.prepare import hybrid, sort
from recon.prepare.epi import StraightSamples
from recon.prepare.hybrid import Lines

#: Columns of a window, which has its own kernel, and lines on either side from which a line is predicted.
WINDOW, REACH = 8, 2
#: Channels to which the lines are compressed, and the fewest and the most lines that are examined.
CHANNELS, LEAST, MOST = 4, 12, 32
#: In order: regularisation of a kernel, as a share of the power it predicts from; and the exponent with which equations
#: are weighted down by their energy: at 0 the lines in the middle of k-space dominate, at 1 all count alike.
RIDGE, EVEN = 1e-4, 0.5
#: Search ranges, tried in this order, in degrees: half width of the phase in the middle of the image; half width of
#: what a quarter of the field of view adds (90: one sample of the readout); step. The first is the neighbourhood of the
#: navigators' phase, or of zero.
NARROW, WIDE = (30.0, 20.0, 2.0), (90.0, 108.0, 6.0)
FINER = ((9.0, 9.0, 1.5), (3.0, 3.0, 0.5), (1.0, 1.0, 0.125))
#: Largest number of passes over lines from which the phase found so far was removed, and the phase in degrees above
#: which another pass is made.
PASSES, STEEP = 4, 2.0
#: A phase is accepted if twice its gain in log-likelihood is at least CLEAR and two sets of windows differ by at most
#: APART degrees.
CLEAR, APART = 100.0, 6.0

Complex = NDArray[np.complexfloating[Any, Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Residual:
    """Phase of forward relative to reversed lines in radians: `constant` at pixel N // 2, `slope` per pixel.

    `gain` is twice the gain in log-likelihood; `apart` is by how many degrees the odd and the even windows of columns
    disagree.
    """

    constant: float
    slope: float
    gain: float
    apart: float

    @property
    def clear(self) -> bool:
        """Whether the phase is more than noise and detail would cause, and the windows of columns agree on it."""
        return self.gain > CLEAR and self.apart < APART


def freed(lines: Lines, rows: NDArray[np.intp]) -> tuple[Lines, str]:
    """The lines, with the remaining ghost removed from the echo-planar ones among `rows` (one slice), and a note.

    The phase is estimated from those of `rows` that lie next to each other around the centre of k-space (`residual`),
    at most MOST. Half of it is subtracted from the forward lines and half added to the others. The lines are returned
    unchanged, without a note, if no phase is clear, for volumes, and if rows were measured in both directions.
    """
    samples = lines.scan.samples
    if not isinstance(samples, StraightSamples) or lines.shape[0] > 1 or not samples.backward[rows].any():
        return lines, ""
    ky, kz, valid = sort.row_index(lines.scan.lines[rows], lines.encoding)
    count = hybrid.counts(lines.scan, rows, lines.encoding)
    _, _, y0, y1 = hybrid.calibration_block(count > 0, MOST)
    inside = valid & (ky >= y0) & (ky < y1)
    backward = np.bincount(ky[inside] - y0, samples.backward[rows[inside]], y1 - y0) / np.maximum(count[0, y0:y1], 1)
    if y1 - y0 < LEAST or ((backward > 0) & (backward < 1)).any():
        return lines, ""
    plain = replace(lines, compression=None)
    block, _, _ = hybrid.gridded(plain, rows[inside], ky[inside] - y0, kz[inside], (1, y1 - y0))
    found = residual(block[:, 0].cpu().numpy(), backward > 0, near=bool((samples.phase[rows] >= 0).all()))
    if found is None or not found.clear:
        return lines, ""
    # Pixels of the encoded field of view, which the lines as read out may divide more finely.
    finer = lines.encoding.encoded_matrix[0] / int(lines.scan.lines["number_of_samples"][rows[0]])
    turned = samples.turned(rows, found.constant, found.slope * finer)
    middle, quarter = np.rad2deg([found.constant, found.slope * block.shape[-1] / 4])
    note = (
        f"a residual EPI ghost was corrected: the phase of reversed lines was off by {middle:+.1f}° at the centre and "
        f'{quarter:+.1f}° more at a quarter of the field of view (prepare.ghost = "navigators" turns this off)'
    )
    return replace(lines, scan=replace(lines.scan, samples=turned)), note


def residual(block: Complex, backward: NDArray[np.bool_], *, near: bool) -> Residual | None:
    """The phase φ₀ + φ₁·x by which forward lines differ from reversed ones; None if it cannot be determined.

    Neighbouring lines predict each other by a kernel, as in GRAPPA, because coils are smooth and the object ends within
    the field of view. Lines of two different phases predict each other badly. In each window v of columns

        J_v(φ) = min_w Σ_n ‖k_n − Σ_o w_o e^{iφ (b_{n+o} − b_n)} k_{n+o}‖²,
        o = ±1, ±2,

    with b_n = 1 for a reversed line, and (φ₀, φ₁) minimise Σ_v N_v log J_v(φ₀ + φ₁ x_v): the likelihood if each window
    has its own size of error. N_v is the number of equations minus the number of unknowns. φ₀ is searched within ±90°:
    for an object smaller than half of the field of view, φ₀ and φ₀ + 180° are equivalent.

    `block` (coil, ky, x) holds neighbouring lines in hybrid space around the centre of k-space, white with noise 1 per
    part; `backward` (ky,) marks those that were read out backwards. Of several channels the strongest combinations are
    used. (Griswold et al., Magn Reson Med 47:1202, 2002; Lobos et al., IEEE Trans Med Imaging 37:2390, 2018.)
    """
    lines, columns = block.shape[1:]
    if lines < LEAST or columns < 2 * WINDOW or backward.all() or not backward.any():
        return None
    y, b = _strongest(np.asarray(block, np.complex128)), np.asarray(backward, int)
    given = _windows(y, b)
    if given is None:
        return None
    windows = given
    x, total, first = (np.arange(columns) - columns // 2) / (columns / 4), np.zeros(2), NARROW if near else WIDE
    for _ in range(PASSES):
        rounds = (first, *FINER)
        found = _best(windows, columns, rounds)
        total, first = total + found, NARROW
        if np.abs(found).max() < STEEP:
            break
        # A steep phase changes within a window, so the remainder is searched for once more.
        turned = _windows(y * np.exp(1j * (b[:, None] - 0.5) * np.deg2rad(total[0] + total[1] * x)), b)
        windows, found = turned or windows, np.zeros(2)
    halves = [_best(windows.some(slice(side, None, 2)), columns, rounds) for side in (0, 1)]
    here = np.deg2rad(found[0] + found[1] * windows.x / (columns / 4))
    before, after = given.errors(0 * here[:, None])[:, 0], windows.errors(here[:, None])[:, 0]
    gain = 2 * float(windows.weight @ np.log(before / after))
    constant, slope = np.deg2rad(total)
    apart = float(np.abs(halves[0] - halves[1]).sum())
    return Residual(float(constant), float(slope) / (columns / 4), gain, apart)


@dataclass(frozen=True)
class _Windows:
    """Normal equations of the windows: `gram` (window, kind, unknown, unknown), `cross` (…, unknown, coil), `power`.

    Lines of one kind have sources with the same readout directions relative to theirs: `turn` (kind, unknown) is
    b_{n+o} − b_n. `x` is the middle of each window from pixel N // 2; `weight` is its N_v.
    """

    x: Floats
    weight: Floats
    turn: NDArray[np.int_]
    gram: Complex
    cross: Complex
    power: Floats

    def errors(self, phase: Floats) -> Floats:
        """J of each window at its phases (window, phase)."""
        turned = np.exp(1j * phase[..., None, None] * self.turn)
        gram = (turned.conj()[..., None] * self.gram[:, None] * turned[..., None, :]).sum(2)
        cross = (turned.conj()[..., None] * self.cross[:, None]).sum(2)
        unknowns = gram.shape[-1]
        ridge = RIDGE * np.trace(gram, axis1=-2, axis2=-1).real / unknowns
        w = np.linalg.solve(gram + ridge[..., None, None] * np.eye(unknowns), cross)
        left = self.power[:, None] - (cross.conj() * w).sum((-2, -1)).real
        out: Floats = np.maximum(left, 1e-9 * self.power[:, None])
        return out

    def some(self, which: slice) -> _Windows:
        """A selection of the windows."""
        gram, cross, power = self.gram[which], self.cross[which], self.power[which]
        return replace(self, x=self.x[which], weight=self.weight[which], gram=gram, cross=cross, power=power)


def _best(windows: _Windows, columns: int, rounds: Sequence[tuple[float, float, float]]) -> Floats:
    """The most likely phase in degrees: in the middle of the image, and what a quarter of the field of view adds."""
    at, found = windows.x / (columns / 4), np.zeros(2)
    for wide, high, step in rounds:
        a, b = np.arange(-wide, wide + step / 2, step), np.arange(-high, high + step / 2, step)
        reach = wide + high * float(np.abs(at).max()) + 2 * step
        offsets = np.arange(-np.ceil(reach / step), np.ceil(reach / step) + 1) * step
        table = windows.errors(np.deg2rad((found[0] + found[1] * at)[:, None] + offsets))
        lost = np.log(_between(table, (a[:, None, None] + b[:, None] * at - offsets[0]) / step)) @ windows.weight
        best = np.unravel_index(int(lost.argmin()), lost.shape)
        found = found + np.array([a[best[0]], b[best[1]]])
    return found


def _strongest(block: Complex) -> Complex:
    """The combinations of channels that hold most of the power, at most CHANNELS."""
    if len(block) <= CHANNELS:
        return block
    _, vectors = np.linalg.eigh(np.einsum("ckx,dkx->cd", block, block.conj()))
    strongest: Complex = np.einsum("cv,ckx->vkx", vectors[:, -CHANNELS:].conj(), block)
    return strongest


def _windows(y: Complex, backward: NDArray[np.int_]) -> _Windows | None:
    coils, lines, columns = y.shape
    n = np.arange(REACH, lines - REACH)
    around = [o for o in range(-REACH, REACH + 1) if o]
    turns = np.stack([backward[n + o] - backward[n] for o in around], axis=1)
    kinds, kind = np.unique(turns, axis=0, return_inverse=True)
    count = columns // WINDOW
    first = columns // 2 - count * WINDOW // 2
    cut = y[..., first : first + count * WINDOW].reshape(coils, lines, count, WINDOW)
    energy = (np.abs(cut) ** 2).sum((0, 3))
    # The noise of a line's samples keeps empty lines from counting as much as full ones.
    near = sum(energy[n + o] + 2 * coils * WINDOW for o in range(-REACH, REACH + 1))
    scale = near ** (-EVEN / 2)
    targets = cut[:, n] * scale[..., None]
    sources = np.stack([cut[:, n + o] * scale[..., None] for o in around]).reshape(-1, *targets.shape[1:])
    gram, cross = [], []
    for k in range(len(kinds)):
        s, t = sources[:, kind.reshape(-1) == k], targets[:, kind.reshape(-1) == k]
        gram.append(np.einsum("anvx,bnvx->vab", s.conj(), s))
        cross.append(np.einsum("anvx,cnvx->vac", s.conj(), t))
    power = (np.abs(targets) ** 2).sum((0, 1, 3))
    lit = power > 0
    if not (lit.any() and np.isfinite(power).all()):
        return None
    weight = np.full(count, coils * max(1, len(n) * WINDOW - len(sources)), float)
    x = first + WINDOW * np.arange(count) + (WINDOW - 1) / 2 - columns // 2
    turn = np.repeat(kinds, coils, axis=1)
    return _Windows(x[lit], weight[lit], turn, np.stack(gram, 1)[lit], np.stack(cross, 1)[lit], power[lit])


def _between(table: Floats, at: Floats) -> Floats:
    """Cubic interpolation of a table (window, place) at fractional places (…, window), never below its minimum."""
    i = np.clip(np.floor(at).astype(np.intp), 1, table.shape[1] - 3)
    f, rows = at - i, np.arange(len(table))
    a, b, c, d = (table[rows, i + o] for o in (-1, 0, 1, 2))
    smooth = b + 0.5 * f * (c - a + f * (2 * a - 5 * b + 4 * c - d + f * (3 * (b - c) + d - a)))
    out: Floats = np.maximum(smooth, table.min(1))
    return out
