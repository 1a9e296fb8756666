"""The combination of two gradients on the device against the formulas in float64 on a CPU."""

import math

import pytest
import torch

from svdistill.choices import BOUND, CLIPS
from svdistill.gradients import TransferHealth, combine

SHAPES = [(16, 8, 3, 3), (16,), (10, 40), (10,), (7, 7)]
EPOCH = 2


def gradients(seed):
    """Return a main and a transfer gradient of each variable, the last of which no transfer loss reaches."""
    generator = torch.Generator().manual_seed(seed)
    main = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    transfer = [
        scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape, scale in zip(SHAPES, (10.0, 0.1, 1.0, 3.0, 0.0), strict=True)
    ]
    return main, [*transfer[:-1], None]


def by_formula(main, transfer, clip):
    """Combine as the formulas say, variable by variable."""
    norm = torch.linalg.vector_norm
    whole_main = torch.stack([norm(one) for one in main]).norm()
    whole_transfer = torch.stack([norm(one) for one in transfer if one is not None]).norm()
    rising = 1 / (1 + math.exp(-EPOCH))
    combined = []
    for m, t in zip(main, transfer, strict=True):
        if t is None:
            combined.append(m)
            continue
        factor = {
            "none": 1.0,
            "per_variable": min(1.0, rising * float(norm(m) / norm(t))),
            "global": min(1.0, rising * float(whole_main / whole_transfer)),
            "own_norm": min(1.0, BOUND / float(whole_transfer)),
            "poster": 1 / (1 + math.exp(-float(norm(m) / norm(t)) + EPOCH)),
        }[clip]
        combined.append(m + factor * t)
    return combined


def on(device, some):
    """Return gradients in float32 on a device."""
    return [None if one is None else one.float().to(device) for one in some]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_combination(device, clip, as_tensor):
    """Every rule, with the epoch as a number and as what a captured step reads."""
    main, transfer = gradients(0)
    epoch = torch.tensor(float(EPOCH), dtype=torch.float64, device=device) if as_tensor else EPOCH
    found = combine(on(device, main), on(device, transfer), epoch=epoch, clip=clip)
    for one, expected in zip(found, by_formula(main, transfer, clip), strict=True):
        torch.testing.assert_close(one.cpu().double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clip", CLIPS)
def test_what_is_not_finite_is_dropped_and_counted(device, clip):
    """This variable gets its main gradient; the health says how many there were."""
    main, transfer = gradients(1)
    transfer[0][0, 0, 0, 0] = math.nan
    health = TransferHealth()
    for _ in range(3):
        found = combine(on(device, main), on(device, transfer), epoch=EPOCH, clip=clip, health=health)
    assert torch.equal(found[0].cpu(), main[0].float())
    assert all(one.isfinite().all() for one in found)
    assert len(health) == 3
    assert health.summary()["dropped"] == 3


def test_health(device):
    """Ratio and fraction of clipped variables, over steps that differ."""
    health, ratios, clipped = TransferHealth(), [], []
    for seed in range(5):
        main, transfer = gradients(seed)
        combine(on(device, main), on(device, transfer), epoch=EPOCH, health=health)
        m, t = (torch.stack([one.norm() for one in some[:-1]]) for some in (main, transfer))
        ratios.append(float(t.norm() / m.norm()))
        clipped.append(float((m / t / (1 + math.exp(-EPOCH)) < 1).double().mean()))
    summary = health.summary()
    assert summary["ratio"] == pytest.approx(sorted(ratios)[2], rel=1e-5)
    assert summary["clipped"] == pytest.approx(sum(clipped) / 5)
