"""The End-to-End VarNet: equal to fastMRI's own, step by step what its paper says, and trainable."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from recon.data import DataError
from recon.nets import e2e_varnet
from recon.nets.e2e_varnet import Shape, VarNet, acs_columns, acs_lines
from recon.nets.norm_unet import NormUNet
from recon.operators import fft, ifft


def peer_models() -> object:
    """fastMRI's networks, or a skipped test, which fails where CI=true promises the package."""
    try:
        import fastmri.models
    except ModuleNotFoundError as e:
        reason = f"{e.name} is not installed; pip install --no-deps fastmri, then pandas pyyaml requests tqdm"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return fastmri.models


def scan(n: int, coils: int, h: int, w: int, acs: tuple[int, int] = (4, 5)) -> tuple[Tensor, Tensor]:
    """Random k-space and a mask of columns for each item, `acs` of them on either side of the middle."""
    g = torch.Generator().manual_seed(n + coils + h + w)
    y = torch.randn(n, coils, h, w, dtype=torch.complex64, generator=g)
    mask = torch.rand(n, 1, 1, w, generator=g) < 0.3
    for item in mask:
        item[..., w // 2 - acs[0] : w // 2 + acs[1]] = True
        item[..., w // 2 - acs[0] - 1] = item[..., w // 2 + acs[1]] = False
    return y * mask, mask


def network(shape: Shape, seed: int = 0) -> VarNet:
    torch.manual_seed(seed)
    net = VarNet(shape).eval()
    for p in net.parameters():
        if p.numel() == 1:
            torch.nn.init.uniform_(p, 0.2, 1.5)
    return net


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


SMALL = Shape(cascades=2, channels=4, pools=2, sens_channels=3, sens_pools=2)
CASES = [
    (Shape(2, 6, 3, 4, 2), (1, 4, 64, 48), (4, 5), None),
    (Shape(3, 4, 4, 4, 4), (1, 5, 45, 37), (6, 3), None),
    (Shape(2, 6, 2, 4, 3), (2, 3, 50, 33), (4, 4), 8),
    (Shape(2, 4, 2, 3, 1), (3, 2, 31, 64), (9, 12), 7),
    (Shape(1, 4, 1, 3, 1), (1, 1, 32, 30), (1, 1), None),
    (Shape(1, 4, 5, 3, 5), (1, 2, 144, 80), (4, 4), None),
    (Shape(2, 4, 2, 4, 2), (1, 3, 16, 20), (20, 20), None),
]


@pytest.mark.parametrize(("shape", "size", "acs", "given"), CASES)
def test_it_equals_the_package_of_fastmri(
    shape: Shape, size: tuple[int, int, int, int], acs: tuple[int, int], given: int | None
) -> None:
    ours = network(shape)
    theirs = peer_models().VarNet(  # type: ignore[attr-defined]
        shape.cascades, shape.sens_channels, shape.sens_pools, shape.channels, shape.pools
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    if acs[0] < size[-1] // 2:
        y, mask = scan(*size, acs)
    else:
        y, mask = torch.randn(size, dtype=torch.complex64), torch.ones(1, 1, 1, size[-1], dtype=torch.bool)
    with torch.no_grad():
        got, wanted = ours(y, mask, given), theirs(torch.view_as_real(y), mask[..., None], given)
        assert got.shape == wanted.shape
        assert error(got, wanted) < 1e-5
        y = y.to(torch.complex128)
        got, wanted = ours.double()(y, mask, given), theirs.double()(torch.view_as_real(y), mask[..., None], given)
        assert error(got, wanted) < 1e-11


def test_at_the_published_size_it_is_as_near_to_the_exact_result_as_the_package() -> None:
    # Twelve cascades of random weights magnify the rounding of single precision: both end 1e-4 from the exact result.
    ours, theirs = network(Shape()), peer_models().VarNet().eval()  # type: ignore[attr-defined]
    theirs.load_state_dict(ours.state_dict())
    y, mask = scan(1, 2, 64, 48)
    with torch.no_grad():
        single, peer = ours(y, mask), theirs(torch.view_as_real(y), mask[..., None])
        y = y.to(torch.complex128)
        exact = theirs.double()(torch.view_as_real(y), mask[..., None])
        assert error(ours.double()(y, mask), exact) < 1e-9
    assert error(single, exact) < max(1e-5, 4 * error(peer, exact))


def test_its_gradients_equal_those_of_the_package() -> None:
    ours = network(SMALL).double().train()
    s = SMALL
    theirs = peer_models().VarNet(  # type: ignore[attr-defined]
        s.cascades, s.sens_channels, s.sens_pools, s.channels, s.pools
    ).double()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    y, mask = scan(2, 3, 20, 24)
    y = y.to(torch.complex128)
    ours(y, mask).square().sum().backward()
    theirs(torch.view_as_real(y), mask[..., None]).square().sum().backward()
    wanted = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        assert p.grad is not None, name
        # The first η has nothing to weigh, k₀ − y = 0: its gradient is zero in both.
        assert torch.allclose(p.grad, wanted[name].grad, rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize("rows", [False, True])
def test_it_takes_the_steps_of_the_paper(rows: bool) -> None:
    # kₜ₊₁ = kₜ − ηₜ M(kₜ − y) − F S Rₜ(Sᴴ F⁻¹ kₜ), written out with k-space of all coils.
    net = network(SMALL).double()
    y, mask = scan(1, 4, 24, 32)
    if rows:
        mask = mask & (torch.rand(1, 1, 24, 32, generator=torch.Generator().manual_seed(1)) < 0.8)
        mask[..., 0, :] = scan(1, 4, 24, 32)[1]
        y = y * mask
    y = y.to(torch.complex128)
    with torch.no_grad():
        centre = torch.zeros(32, dtype=torch.bool)
        centre[12:20] = True
        images = ifft(y * centre, (-2, -1))
        maps = net.sens_net.norm_unet(images[0])[None]
        maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
        k = y
        for cascade in net.cascades:
            x = (maps.conj() * ifft(k, (-2, -1))).sum(1)
            k = k - cascade.dc_weight * mask * (k - y) - fft(maps * cascade.model(x)[:, None], (-2, -1))
        wanted = ifft(k, (-2, -1)).abs().square().sum(1).sqrt()
        assert error(net(y, mask), wanted) < 1e-12


@pytest.mark.parametrize("size", [(1, 4, 40, 36), (2, 3, 33, 46)])
def test_with_and_without_a_gradient_it_gives_the_same_picture(size: tuple[int, int, int, int]) -> None:
    net, (y, mask) = network(SMALL), scan(*size)
    slow = net(y, mask)
    with torch.no_grad():
        quick, again = net(y, mask), net(y, mask)
    assert slow.requires_grad
    assert error(quick, slow.detach()) < 1e-5
    assert torch.equal(quick, again)


def test_items_of_a_batch_do_not_see_each_other() -> None:
    net, (y, mask) = network(SMALL), scan(2, 3, 24, 30)
    with torch.no_grad():
        both = net(y, mask)
        alone = torch.cat([net(y[i : i + 1], mask[i : i + 1]) for i in range(2)])
    assert error(both, alone) < 1e-5


def test_the_picture_scales_with_the_data() -> None:
    net, (y, mask) = network(SMALL), scan(1, 3, 24, 30)
    with torch.no_grad():
        assert error(net(y * 2**-16, mask), net(y, mask) * 2**-16) < 1e-5


def test_half_precision_of_convolutions_changes_little() -> None:
    net, (y, mask) = network(SMALL), scan(1, 3, 32, 32)
    with torch.no_grad():
        full = net(y, mask)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(y, mask)
    assert half.dtype == torch.float32
    assert 0 < float((half - full).norm() / full.norm()) < 0.1


def test_the_block_of_measured_columns_is_counted_about_the_middle() -> None:
    def count(text: str) -> int:
        return int(acs_columns(torch.tensor([[c == "1" for c in text]])))

    assert count("0101110100") == 2  # columns 4 and 5 are on both sides of the middle, 3 on one alone
    assert count("0011111010") == 4
    assert count("1000001000") == 1
    assert count("0011111110") == 6
    assert count("1111111111") == 1  # as fastMRI counts


def test_measured_lines_about_the_middle_are_counted_to_the_edge_and_few_are_refused() -> None:
    lines = torch.zeros(21, dtype=torch.bool)
    lines[7:14] = True
    assert acs_lines(lines) == 6
    assert acs_lines(torch.ones(20, dtype=torch.bool)) == 20
    lines[8] = False
    with pytest.raises(DataError, match=r"only 2 contiguous lines at the centre .* use --method sense or cs"):
        acs_lines(lines)


def test_a_slice_in_hybrid_space_gives_the_picture_of_its_k_space() -> None:
    net, (k, mask) = network(SMALL), scan(2, 3, 24, 30)
    with torch.no_grad():
        wanted = net(k, mask).mT[:, None]
    y = ifft(k, (-2,)).mT[:, :, None]
    got = e2e_varnet.reconstruct(net, y * 1e-30, mask[:, 0, 0])
    assert error(got * 1e30, wanted) < 1e-5


def test_a_coil_without_signal_stays_without() -> None:
    net, (y, mask) = network(SMALL), scan(1, 3, 24, 30)
    y[:, 1] = 0
    with torch.no_grad():
        assert bool(torch.isfinite(net(y, mask)).all())
        assert not net.sens_net(ifft(y, (-2, -1))[:, :, None])[0, 1].abs().max() > 1e-30


def test_the_u_net_moves_and_scales_with_its_image() -> None:
    torch.manual_seed(0)
    net = NormUNet(4, 2).double()
    x = torch.randn(1, 19, 21, dtype=torch.complex128)
    with torch.no_grad():
        assert error(torch.view_as_real(net(3 * x + (2 - 1j))), torch.view_as_real(3 * net(x) + (2 - 1j))) < 1e-12
