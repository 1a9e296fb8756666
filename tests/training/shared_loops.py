"""Loops of one's own around `backward`, done by however many processes there are; see test_backward.py.

Usage: shared_loops.py FOLDER; each process writes what it came to into FOLDER/<rank>.pt.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import svdistill
from svdistill.data import standardize

STEPS, BATCH = 20, 16
# name: (how the network is wrapped, arguments of Backward, passes a step, steps)
LOOPS = {
    "documented": ("ddp", {}, 1, STEPS),
    "frozen statistics": ("ddp", {}, 1, STEPS),
    "bare": (None, {}, 1, 4),
    "unused looked for": ("ddp unused", {}, 1, 4),
    "per variable": ("ddp", {"clip": "per_variable"}, 1, 4),
    "passes": ("ddp", {}, 2, 4),
    "without labels": ("ddp", {}, 1, 4),
    "blocks sharded": ("blocks", {}, 1, 4),
    "sharded": ("root", {}, 2, 4),
}


def batches():
    """Return scans of digits and their labels, a batch at a time, in float64: rounding grows with each step."""
    train = svdistill.data.load("digits", image_size=16).train.subset(STEPS * BATCH, seed=0)
    mean, std = svdistill.data.channel_statistics(train)
    return standardize(train.images, mean, std).double().split(BATCH), train.labels.split(BATCH)


def networks(*, exact):
    """Return a pair with adapters; ``exact``: without what sees its part of a batch alone, or draws at random."""
    torch.manual_seed(0)
    student = svdistill.nets.create("vgg-student", num_classes=10, in_channels=1, width=0.05)
    teacher = svdistill.nets.create("vgg-teacher", num_classes=10, in_channels=1, width=0.07)
    taps = {f"{who}_taps": svdistill.nets.default_taps(f"vgg-{who}") for who in ("student", "teacher")}
    distiller = svdistill.Distiller(student, teacher, loss=svdistill.SVDLoss(), **taps)
    distiller.prepare(torch.rand(2, 1, 16, 16))
    distiller.double().train()
    for module in distiller.modules():
        if isinstance(module, nn.Dropout) and exact:
            module.p = 0.0
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and exact:
            module.eval()
    return distiller


def wrapped(distiller, how):
    """Wrap a network as those who run several processes do."""
    if how == "ddp":
        return DistributedDataParallel(distiller)
    if how == "ddp unused":
        return DistributedDataParallel(distiller, find_unused_parameters=True)
    if how in ("blocks", "root"):
        from torch.distributed.fsdp import fully_shard

        for block in ("block2", "block4") if how == "blocks" else ():
            fully_shard(distiller.student.get_submodule(block))
        fully_shard(distiller)
    return distiller


def loop(name, *, rank=0, world=1):
    """Train, each process on its part of every batch, and return start and end of what learns; one does it plainly."""
    how, options, passes, steps = LOOPS[name]
    passes = passes if world > 1 else 1
    distiller = networks(exact=name != "documented")
    start = {key: p.detach().clone() for key, p in distiller.named_parameters()}
    model = wrapped(distiller, how if world > 1 else None)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05, momentum=0.9)
    backward = svdistill.training.Backward(optimizer, **options)
    for step, images, labels in zip(range(steps), *batches(), strict=False):
        # In some steps the second half of a batch, which is that of the second process, has no labels.
        labelled = 0.5 if name == "without labels" and step % 2 else 1.0
        parts = range(rank, BATCH, world) if labelled == 1.0 else range(rank * BATCH // 2, (rank + 1) * BATCH // world)
        for number in range(passes):
            own = torch.tensor(list(parts)[number::passes])
            output = model(images[own])
            known = own < labelled * BATCH
            main = F.cross_entropy(output.logits[known], labels[own][known], reduction="sum") / len(own) / passes
            if not known.any():
                main = images.new_zeros(())
            backward(main, 4 * BATCH * output.transfer / passes, epoch=step // 2, last=number == passes - 1)
        optimizer.step()
        optimizer.zero_grad()
    return {"start": start, "end": {key: _whole(p) for key, p in distiller.named_parameters()}}


def _whole(parameter):
    parameter = parameter.detach()
    return parameter.full_tensor() if svdistill.gradients.is_sharded(parameter) else parameter


def main():
    """Do every loop with the processes that were started."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", rank=rank, world_size=world)
    results = {name: loop(name, rank=rank, world=world) for name in LOOPS}
    torch.save(results, Path(sys.argv[1]) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
