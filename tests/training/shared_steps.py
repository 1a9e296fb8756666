"""Steps, evaluations and agreements, done by however many processes there are; see test_processes.py.

Usage: shared_steps.py FOLDER; each process writes what it came to into FOLDER/<rank>.pt.
"""

import os
import sys
from pathlib import Path

import torch
from torch import nn

from svdistill import losses, nets, training
from svdistill.data import (
    Augmentation,
    Batches,
    ColourJitter,
    Erasing,
    ImageSet,
    Mixed,
    Mixing,
    ResizedCrop,
    Views,
    channel_statistics,
)
from svdistill.distiller import Distiller
from svdistill.errors import RecipeError, SvdistillError
from svdistill.gradients import TransferHealth
from svdistill.training import Examples, Learner, Objective, Processes, Reducer, sharding
from svdistill.training.metrics import Metrics
from svdistill.training.reduce import average_buffers

JITTER = ColourJitter(brightness=0.4, contrast=0.4)
VARIED = Augmentation(
    flip=True,
    rotation=15.0,
    shift=2,
    resized_crop=ResizedCrop(),
    erasing=Erasing(),
    colour_jitter=JITTER,
)
# name: (what makes the losses, objective, parts, unlabelled images a step, fixed views, width of the teacher)
STEPS = {
    "sum": (lambda: {"svd": losses.SVDLoss(reduction="sum")}, Objective(), 1, 0, None, 0.05),
    "mean": (lambda: {"svd": losses.SVDLoss(reduction="mean")}, Objective(clip="global"), 1, 0, None, 0.05),
    "own norm, in parts": (
        lambda: {"svd": losses.SVDLoss(reduction="sum")},
        Objective(clip="own_norm", bound=0.5),
        2,
        4,
        None,
        0.05,
    ),
    "in parts": (lambda: {"svd": losses.SVDLoss(reduction="sum")}, Objective(), 2, 4, None, 0.05),
    "beside": (
        lambda: {"svd": losses.SVDLoss(reduction="sum"), "soft": losses.SoftTargetLoss()},
        Objective(main=0.1, weights={"svd": 2.0, "soft": 0.9}, beside={"soft"}, clip="poster", label_smoothing=0.1),
        1,
        8,
        Views(count=3, seed=4),
        0.05,
    ),
    "with labels": (
        lambda: {"svd": losses.SVDLoss(reduction="sum"), "dkd": losses.DKDLoss()},
        Objective(weights={"svd": 2.0, "dkd": 0.5}, warm_up={"dkd": 3}, beside={"dkd"}),
        2,
        4,
        None,
        0.05,
    ),
    "mixed": (
        lambda: {"svd": losses.SVDLoss(reduction="sum"), "soft": losses.SoftTargetLoss()},
        Objective(weights={"svd": 2.0, "soft": 0.9}, beside={"soft"}, label_smoothing=0.1),
        2,
        4,
        None,
        0.05,
    ),
    "few labels": (
        lambda: {"svd": losses.SVDLoss(reduction="sum"), "dkd": losses.DKDLoss()},
        Objective(weights={"dkd": 0.5}, beside={"dkd"}, clip="own_norm", bound=0.5, label_smoothing=0.1),
        2,
        4,
        None,
        0.05,
    ),
    "transfer alone": (
        lambda: {"hint": losses.FitNetLoss()},
        Objective(main=0.0, weights={"hint": 1.0}, max_norm=1.0),
        2,
        0,
        None,
        0.07,
    ),
}


def images(count, seed=0):
    """Return noise of three classes."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 16, 16), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 3, ("a", "b", "c"))


def steps(name, *, world=1, parts=None, count=4):
    """Do ``count`` steps, and return weights, figures and health; with one process, ``parts`` says in how many."""
    make_losses, objective, accumulate, unlabelled, views, teacher_width = STEPS[name]
    engine = training.launch(device="cpu", seed=3)
    assert engine.world_size == world
    processes = Processes(engine)
    labelled, (mean, std) = images(40), channel_statistics(images(40).images)
    student = nets.create("vgg-student", num_classes=3, in_channels=1, width=0.05)
    teacher = nets.create("vgg-teacher", num_classes=3, in_channels=1, width=teacher_width)
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    taps = ("block1", "block2", "block3", "block4")
    distiller = Distiller(student, teacher, loss=make_losses(), student_taps=taps, teacher_taps=taps)
    distiller.prepare(torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    optimizer = training.make_optimizer("sgd", distiller, lr=0.02, weight_decay=1e-3)
    options = {"augmentation": VARIED, "mean": mean, "std": std}
    options |= {"views": views, "shard": processes.shard}
    options |= {"mixing": Mixing(mixup=0.5, cutmix=1.0) if name == "mixed" else None}
    batches = Batches(labelled, 8, seed=5, **options)
    if unlabelled:
        batches = Mixed(batches, Batches(images(20, seed=9), unlabelled, seed=6, first=40, **options))
    metrics, health = Metrics("cpu"), TransferHealth()
    learner = Learner(engine, distiller, optimizer, parts or accumulate, Reducer(processes))
    distiller.train()
    seen = []
    for epoch, batch in zip(range(count), batches.epoch(), strict=False):
        if name == "few labels":  # none in some parts, and not equally many in the others
            batch = batch._replace(labels=torch.where(batch.indices % 4 == 0, batch.labels, -1))
        result = training.take_step(learner, Examples(*batch), epoch=epoch, objective=objective, health=health)
        metrics.add(result.figures, images=result.images)
        seen += batch.indices.tolist()
    return {
        "weights": {name: p.detach() for name, p in distiller.named_parameters()},
        "metrics": metrics.read() | {"images": metrics.images},
        "health": health.summary(),
        "seen": seen,
    }


def measured(count, *, processes):
    """Evaluate on this many images."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    mean, std = channel_statistics(images(40).images)
    options = {"batch_size": 4, "confusion": True, "shard": processes.shard}
    return training.evaluate(None, model, images(count), mean=mean, std=std, **options)


def sharded(engine):
    """Run a teacher whole and in shards, tapped and with a hook of its own."""
    torch.manual_seed(2)
    teacher = nets.create("vgg-bn-teacher", num_classes=3, in_channels=1, width=0.2).eval()
    teacher.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2 - 1,))
    taps, pixels = nets.default_taps("vgg-bn-teacher"), images(4).images / 255

    def seen():
        with torch.no_grad(), nets.Taps(teacher, taps) as recorder:
            return [teacher(pixels), *recorder.collect()]

    whole, held = seen(), [sharding.held(teacher)]
    training.shard_parameters(engine, teacher, pixels)
    shards, _ = seen(), held.append(sharding.held(teacher))
    return {
        "equal": all(torch.equal(a, b) for a, b in zip(whole, shards, strict=True)),
        "plain": all(type(tensor) is torch.Tensor for tensor in shards),
        "training": any(module.training for module in teacher.modules()),
        "held": held,
    }


def agreements(processes):
    """Use what the processes tell each other, errors included."""
    rank = processes.rank

    def fail():
        if rank == 1:
            raise RecipeError("the second alone")
        return rank

    sys.modules[Processes.__module__]._HEARTBEAT_SECONDS = 0.01

    def crash():
        raise ZeroDivisionError("not one of ours")

    model = nn.BatchNorm1d(2)
    model.running_mean.fill_(float(rank))
    model.running_var.fill_(1.0 + 2 * rank)
    average_buffers(model, processes)
    turns = processes.rank_zero_first(lambda: rank)
    processes.vary_random_numbers(3, 0)
    return {
        "rank zero": processes.on_rank_zero(lambda: f"said by {rank}"),
        "slow": processes.on_rank_zero(lambda: sum(range(10**7))),
        "turns": turns,
        "mean": model.running_mean.tolist(),
        "variance": model.running_var.tolist(),
        "counted": int(model.num_batches_tracked),
        "all ranks": caught(lambda: processes.on_all_ranks(fail)),
        "crash": caught(lambda: processes.on_rank_zero(crash)),
        "random": torch.rand(1).item(),
    }


def caught(work):
    """Return the kind and the text of the error that something raises."""
    try:
        work()
    except (SvdistillError, ZeroDivisionError) as error:
        return type(error).__name__, str(error)
    return None


def main(folder):
    """Do everything and write it down."""
    torch.set_num_threads(1)
    processes = Processes(training.launch(device="cpu", seed=3))
    found = {name: steps(name, world=processes.world) for name in STEPS}
    found["measured"] = {count: measured(count, processes=processes) for count in (31, 1)}
    found["sharded"] = sharded(training.launch(device="cpu", seed=3))
    found["agreements"] = agreements(processes)
    torch.save(found, Path(folder) / f"{processes.rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # as the program svdistill ends, see svdistill.cli.app
