"""Views of a body that extends beyond the detector, extrapolated to where it may end."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.operators.cone import ConeXray
from recon.operators.xray import Fan, Parallel, Xray
from recon.solve.fbp import shifted_by

#: In order: line integral at the end of the detector that is not air: 5 mm of water; share of the views that must reach
#: it; elements at an end, as a share of all, to which a line is fitted.
CUT, SEEN, FITTED = 0.1, 0.02, 0.03

#: Largest extrapolation of a view, in widths of the detector.
FARTHEST = 0.5


def cut(p: Tensor, A: Xray | ConeXray) -> float:
    """Share of the views (row, view) of line integrals `p` (..., view, detector) that end within a body; 0 if few do.

    The shorter end of a shifted detector lies in the body by design and does not count.
    """
    share = float((torch.stack([_end(p, side)[0] for side in _ends(A)]).amax(0) > CUT).float().mean())
    return share if share > SEEN else 0.0


def continued(p: Tensor, A: Xray | ConeXray, water: float) -> tuple[Tensor, tuple[int, int]]:
    """Line integrals with more elements at either end, and how many: the body continues there as a cylinder of water.

        p(t)² = P² + 2 P S t − (2 μ t)²,   t > 0 in mm beyond the end, as at the axis

    with P and S ≤ 0 the value and outward slope of a line fitted to the view's last elements: the cylinder whose rays
    end like the view. Without this, a ramp filter would turn the step at the end into a bright rim and raise everything
    inside. Nothing is added if no view is `cut`.

    J. Hsieh et al., A novel reconstruction algorithm to extend the CT scan field-of-view, Med. Phys. 31:2385 (2004).
    """
    if not cut(p, A):
        return p, (0, 0)
    parts, most = {0: p[..., :0], 1: p[..., :0]}, max(1, round(FARTHEST * p.shape[-1]))
    for side in _ends(A):
        value, slope = _end(p, side)
        step = spacing(A)
        value, slope = value.clamp_min(0), (slope / step).clamp_max(0)
        t = step * torch.arange(1, most + 1, dtype=p.dtype, device=p.device)
        square = value[..., None] ** 2 + 2 * (value * slope)[..., None] * t - (2 * water * t) ** 2
        beyond = square.clamp_min(0).sqrt()
        # Elements that every view leaves empty, because none continues that far, are removed.
        count = int((beyond > 0).reshape(-1, most).any(0).sum())
        parts[side] = beyond[..., :count].flip(-1) if side == 0 else beyond[..., :count]
    return torch.cat([parts[0], p, parts[1]], -1), (parts[0].shape[-1], parts[1].shape[-1])


def _ends(A: Xray | ConeXray) -> tuple[int, ...]:
    """The ends of the detector, 0 the first element and 1 the last, beyond which there should be air."""
    g = _plane(A)
    short = shifted_by(g) if isinstance(g, Fan) else 0
    return (0, 1) if not short else (1,) if short > 0 else (0,)


def _end(p: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Value at an end of each view and its outward slope per element, by a line through its last elements."""
    count = max(4, round(FITTED * p.shape[-1]))
    last = p[..., :count].flip(-1) if side == 0 else p[..., -count:]
    at = torch.arange(last.shape[-1], dtype=p.dtype, device=p.device)
    at = at - at.mean()
    slope = (last * at).sum(-1) / at.square().sum()
    return last.mean(-1) + slope * at[-1], slope


def _plane(A: Xray | ConeXray) -> Parallel | Fan:
    return A.plane.geometry if isinstance(A, ConeXray) else A.geometry


def spacing(A: Xray | ConeXray) -> float:
    """Distance in mm of neighbouring rays where they pass the axis."""
    g = _plane(A)
    if isinstance(g, Parallel):
        return g.spacing
    return g.spacing * g.source_distance / (g.source_distance + g.detector_distance)
