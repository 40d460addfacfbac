"""What the header of a scan announces: how many values its counters take, and how many phase encodes there are."""

from __future__ import annotations

import math

from recon.data import Encoding, Limit


def span(limit: Limit | None, otherwise: int) -> int:
    """Number of values within a limit."""
    return limit.maximum - limit.minimum + 1 if limit else otherwise


def encodes(encoding: Encoding) -> tuple[int, int]:
    """Number of phase encodes along both axes that the header allows."""
    return tuple(  # type: ignore[return-value]
        span(encoding.limits.get(f"kspace_encoding_step_{axis}"), encoding.encoded_matrix[axis]) for axis in (1, 2)
    )


def announced(encoding: Encoding, *names: str) -> int:
    """Number of combinations of the counters within their limits; a counter without limits has one value."""
    return math.prod(span(encoding.limits.get(name), 1) for name in names)


def lines_each(encoding: Encoding) -> int:
    """Lines of one average of a frame, not counting additional ACS lines: N/R along both axes, rounded up."""
    return max(1, math.prod(math.ceil(n / r) for n, r in zip(encodes(encoding), encoding.acceleration)))
