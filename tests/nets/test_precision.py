from __future__ import annotations

import pytest
import torch

from recon.nets import precision


def test_pictures_are_made_in_true_single_precision_and_the_setting_comes_back() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32

    def fails() -> None:
        with precision.full():
            assert not cudnn.allow_tf32
            raise ZeroDivisionError

    try:
        for usual in (True, False):
            cudnn.allow_tf32 = usual
            with pytest.raises(ZeroDivisionError):
                fails()
            assert cudnn.allow_tf32 is usual
    finally:
        cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", ["unrolled", "e2e_varnet"])
def test_both_networks_reconstruct_within_it(name, monkeypatch) -> None:
    from recon.nets import e2e_varnet, unrolled

    seen = []

    class Network(torch.nn.Module):
        def forward(self, x: object, *_: object) -> torch.Tensor:
            seen.append(torch.backends.cudnn.allow_tf32)
            return torch.ones(1, 8, 8)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    network = Network()
    network.shape = unrolled.Shape()
    if name == "unrolled":
        monkeypatch.setattr(unrolled, "problem", lambda *_, **__: None)
        unrolled.reconstruct(network, None)
    else:
        e2e_varnet.reconstruct(network, torch.ones(1, 2, 1, 16, 8) + 0j, torch.ones(1, 16, dtype=torch.bool))
    assert seen == [False]
