"""The unrolled network: its algebra against dense matrices, its symmetries, and its gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recon import masks
from recon.data import Measurement
from recon.nets import unrolled
from recon.nets.unet import UNet
from recon.nets.unrolled import Problem, Shape, Unrolled
from recon.operators.base import Linear
from recon.operators.sense import Sense
from recon.solve.cg import cg

SMALL = Shape(cascades=2, channels=(8, 12), condition=8, iterations=4, start=6)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scan(ny: int = 18, nx: int = 15, coils: int = 3, sets: int = 1, lead: tuple[int, ...] = ()) -> Measurement:
    """Random maps of unit size, every second line measured, noise of σ = 1."""
    g = seeded(1)
    shape = (*lead, *((sets,) if sets > 1 else ()), coils, 1, ny, nx)
    maps = torch.randn(shape, dtype=torch.complex64, generator=g)
    maps = maps / maps.abs().square().sum(-4, keepdim=True).sqrt()
    mask = torch.from_numpy(masks.equispaced((ny,), 2, 6)).float()[:, None]
    A = Sense(maps, mask, (-3, -2), sets > 1)
    image = (*lead, *((sets,) if sets > 1 else ()), 1, ny, nx)
    x = 100 * torch.randn(image, dtype=torch.complex64, generator=g)
    y = A(x)
    y = y + mask * torch.randn(y.shape, dtype=torch.complex64, generator=g) * math.sqrt(2)
    return Measurement(y, A, 1.0)


def awake(shape: Shape = SMALL) -> Unrolled:
    """A network whose last layers are not zero."""
    torch.manual_seed(0)
    network = Unrolled(shape)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "last" in name or "modulation" in name or "weight." in name:
                value.add_(0.1 * torch.randn(value.shape, generator=seeded(2)))
    return network


def dense(A: Linear, shape: torch.Size) -> Tensor:
    """The matrix of an operator, column by column, complex128."""
    n = shape.numel()
    unit = torch.eye(n, dtype=torch.complex128).reshape(n, *shape)
    return torch.stack([A(e).flatten() for e in unit], 1)


def test_refinement_solves_the_regularised_normal_equations() -> None:
    m = scan(6, 5)
    A = m.A.to(torch.complex128)
    z = torch.randn(1, 6, 5, dtype=torch.complex128, generator=seeded(3))
    b = A.adjoint(m.y.to(torch.complex128)) / 100
    lam = torch.tensor(0.3, dtype=torch.float64)
    N = dense(A.normal(), z.shape)
    exact = torch.linalg.solve(N + 0.3 * torch.eye(30), (b + 0.3 * z).flatten()).reshape(z.shape)
    torch.testing.assert_close(unrolled.refine(A.normal(), b, z, lam, 30), exact, rtol=1e-8, atol=1e-8)


def test_refinement_takes_the_steps_of_conjugate_gradients() -> None:
    m = scan(9, 8)
    A = m.A.to(torch.complex128)
    z = torch.randn(1, 9, 8, dtype=torch.complex128, generator=seeded(3))
    b, lam = A.adjoint(m.y.to(torch.complex128)) / 100, torch.tensor(0.02, dtype=torch.float64)
    expected = cg(A.normal(), b, x0=z, lam=lam, reference=z, iterations=5, tolerance=0).x
    torch.testing.assert_close(unrolled.refine(A.normal(), b, z, lam, 5), expected, rtol=1e-9, atol=1e-9)


def test_refinement_keeps_finite_gradients_after_it_has_converged() -> None:
    m = scan(6, 5)
    z = torch.randn(1, 6, 5, dtype=torch.complex64, generator=seeded(3)).requires_grad_()
    x = unrolled.refine(m.A.normal(), m.A.adjoint(m.y) / 100, z, torch.tensor(0.5), 60)
    x.abs().square().sum().backward()
    assert z.grad is not None
    assert bool(torch.isfinite(torch.view_as_real(z.grad)).all())


def test_an_untrained_network_is_an_iterated_tikhonov_refinement_of_its_start() -> None:
    m = scan(6, 5)
    network = Unrolled(replace(SMALL, iterations=40))
    start = unrolled.classical(m, 6)
    got = unrolled.reconstruct(network, m, start=start)
    scale = float(unrolled.size(start, 3))
    lam = math.sqrt(2) / scale * math.exp(unrolled.TRUST) + 1e-5
    N = dense(m.A.to(torch.complex128).normal(), start.shape)
    b, x = (v.flatten().to(torch.complex128) for v in (m.A.adjoint(m.y), start))
    for _ in range(SMALL.cascades):
        x = torch.linalg.solve(N + lam * torch.eye(30), b + lam * x)
    torch.testing.assert_close(got.flatten(), x.to(torch.complex64), rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize("factor", [1e-6, 0.37, 1e6])
def test_scaling_the_data_and_their_noise_scales_the_image(factor: float) -> None:
    m, network = scan(), awake()
    scaled = Measurement(factor * m.y, m.A, factor * m.sigma)
    x, y = unrolled.reconstruct(network, m), unrolled.reconstruct(network, scaled)
    torch.testing.assert_close(y / factor, x, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def test_more_noise_with_the_same_data_gives_another_image() -> None:
    m, network = scan(), awake()
    noisier = Measurement(m.y, m.A, 5 * m.sigma)
    start = unrolled.classical(m, 6)
    x, y = (unrolled.reconstruct(network, v, start=start) for v in (m, noisier))
    assert float((x - y).abs().max()) > 1e-3 * float(x.abs().max())


@pytest.mark.parametrize(("ny", "nx"), [(16, 16), (17, 23), (31, 12), (40, 9)])
def test_any_size_comes_back_as_it_is(ny: int, nx: int) -> None:
    x = unrolled.reconstruct(awake(), scan(ny, nx))
    assert x.shape == (1, ny, nx)
    assert x.dtype == torch.complex64
    assert bool(torch.isfinite(torch.view_as_real(x)).all())


def test_the_same_scan_gives_the_same_bits() -> None:
    m, network = scan(33, 20), awake()
    assert torch.equal(unrolled.reconstruct(network, m), unrolled.reconstruct(network, m))


def test_half_precision_affects_only_convolutions_and_changes_the_image_little() -> None:
    """But for the first of each cascade, which finds fine detail beside large values."""
    network, convolutions, consistency = awake(), set(), set()
    for name, part in network.named_modules():
        if isinstance(part, torch.nn.Conv2d) and not name.endswith("encoders.0.first"):
            part.register_forward_hook(lambda _, __, out: convolutions.add(out.dtype))
    m = scan(32, 24)
    p = unrolled.problem(m, 6)

    def watched(x: Tensor) -> Tensor:
        out = p.normal(x)
        consistency.update({x.dtype, out.dtype})
        return out

    with torch.no_grad():
        full = network(p, 0.0)
        convolutions.clear()
        with torch.autocast("cpu", torch.bfloat16):
            half = network(replace(p, normal=watched), 0.0)
    assert convolutions == {torch.bfloat16}
    assert consistency == {torch.complex64}
    assert half.dtype == torch.complex64
    assert 0 < float((half - full).norm() / full.norm()) < 0.02


def test_items_of_a_batch_are_reconstructed_as_if_alone() -> None:
    m, network = scan(lead=(3,)), awake()
    A = m.A
    assert isinstance(A, Sense)
    both = unrolled.reconstruct(network, m)
    for i in range(3):
        one = Measurement(m.y[i], Sense(A.maps[i], A.mask, A.axes), m.sigma)
        alone = unrolled.reconstruct(network, one)
        torch.testing.assert_close(both[i], alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


def test_several_sets_of_maps_give_an_image_each() -> None:
    m = scan(sets=2)
    x = unrolled.reconstruct(awake(), m, ndim=4)
    assert x.shape == (2, 1, 18, 15)
    fit = float((m.A(x) - m.y).abs().square().sum() / m.y.abs().square().sum())
    assert fit < 0.2


def test_the_gradient_agrees_with_finite_differences() -> None:
    m = scan(8, 8)
    network = awake(replace(SMALL, cascades=1, channels=(4, 4), iterations=3)).double()
    A = m.A.to(torch.complex128)
    b = A.adjoint(m.y.to(torch.complex128))
    noise, share = torch.tensor(1.4, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    target = torch.randn(1, 8, 8, dtype=torch.complex128, generator=seeded(5))

    def loss() -> Tensor:
        x = network(Problem(A.normal(), b, b.clone(), noise, share), 0.5)
        return (x / 100 - target).abs().square().sum()

    for name, p in network.named_parameters():
        network.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        assert p.grad is not None, name
        if name.endswith("bias") or "last" in name:
            at, step = int(p.grad.abs().argmax()), 1e-6
            with torch.no_grad():
                flat = p.view(-1)
                flat[at] += step
                up = float(loss())
                flat[at] -= 2 * step
                down = float(loss())
                flat[at] += step
            assert (up - down) / (2 * step) == pytest.approx(float(p.grad.view(-1)[at]), rel=1e-3, abs=1e-6), name


def test_the_probe_finds_the_share_of_k_space_that_was_measured() -> None:
    m = scan(64, 60, coils=4)
    A = m.A
    assert isinstance(A, Sense)
    x = A.adjoint(m.y)
    assert float(unrolled.sampled(A.normal(), x, 3)) == pytest.approx(float(A.mask.mean()), rel=0.05)


def test_empty_space_does_not_change_the_size_of_an_image() -> None:
    x = torch.randn(1, 12, 12, dtype=torch.complex64, generator=seeded(4))
    padded = torch.nn.functional.pad(x, (20, 20, 20, 20))
    torch.testing.assert_close(unrolled.size(padded, 3), unrolled.size(x, 3))
    assert float(unrolled.size(torch.full((1, 5, 5), 3e15 + 0j, dtype=torch.complex64), 3)) == pytest.approx(3e15)


def test_a_fresh_unet_adds_nothing_and_depends_on_its_condition_once_awake() -> None:
    torch.manual_seed(0)
    net = UNet(4, 2, (8, 8), 5)
    net.requires_grad_(False)
    x, c = torch.randn(2, 4, 13, 10), torch.randn(2, 5)
    assert float(net(x, c).abs().max()) == 0
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=seeded(1)))
    assert not torch.equal(net(x, c), net(x, -c))
    assert net(x, c).shape == (2, 2, 13, 10)


def test_a_single_item_without_gradients_gives_what_a_batch_with_them_does() -> None:
    from recon.nets.unet import Conditioned

    torch.manual_seed(0)
    block, x, condition = Conditioned(6, 8, 5), torch.randn(2, 6, 20, 23), torch.randn(2, 5)
    torch.nn.init.normal_(block.modulation.weight)
    torch.nn.init.normal_(block.modulation.bias)
    both = block(x, condition)
    with torch.no_grad():
        for k in range(2):
            one = block(x[k : k + 1], condition[k : k + 1])
            assert float((one - both[k : k + 1]).abs().max()) < 1e-5 * float(both.abs().max())


def test_means_of_neighbourhoods_are_those_of_squares() -> None:
    from recon.nets.unrolled import _details

    x, one = torch.randn(1, 1, 1, 40, 33, dtype=torch.float64), torch.ones(())
    for whole in (True, False):
        finer = x
        for width, found in zip((3, 15, 31), _details(x, one, (3, 15, 31), 5.0, whole=whole)):
            mean = torch.nn.functional.avg_pool2d(x[0], width, 1, width // 2, count_include_pad=whole)[None]
            h = finer - mean
            assert torch.allclose(found, h * (1 + h.square() / 25).rsqrt(), atol=1e-12)
            finer = mean


def test_noise_beside_a_strong_edge_shows_only_in_plain_details() -> None:
    """An edge of 60 ε: what noise of 1 ε changes there is lost where values beyond 5 ε are compressed."""
    from recon.nets.unrolled import COMPRESSED, PLAIN, _details

    edge = torch.zeros(1, 1, 1, 24, 24)
    edge[..., 12:] = 60.0
    noise = torch.randn(edge.shape, generator=torch.Generator().manual_seed(0))
    seen = {}
    for most in (COMPRESSED, PLAIN):
        (calm,), (noisy,) = (_details(v, torch.ones(()), (3,), most, whole=False) for v in (edge, edge + noise))
        seen[most] = float((noisy - calm)[..., 11:13].std())
    assert seen[PLAIN] > 0.7
    assert seen[COMPRESSED] < 0.05
