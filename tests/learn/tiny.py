"""A recipe that trains within a second."""

from __future__ import annotations

from dataclasses import replace

import torch

from recon.learn.settings import Loop, Pool, Training
from recon.learn.synth import Settings
from recon.nets.unrolled import Shape

DATA = Settings(sizes=(32,), coils=(2, 4), acs=(8, 8), acceleration=(2.0, 3.0), estimated_maps=0.0, partial=0.0)
TINY = Training(
    name="tiny",
    network=Shape(cascades=1, channels=(8, 8), condition=8, iterations=3, start=8),
    data=DATA,
    check=replace(DATA, planar=0.0),
    pool=Pool(size=12, validation=4),
    loop=Loop(batch=2, width=16, warmup=2, ema=0.9, ssim_from=0.5),
)
CPU = torch.device("cpu")
