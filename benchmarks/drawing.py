"""`python -m benchmarks.drawing` makes docs/method.png: the method, with the values of a pair trained on digits."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from svdistill import jobs, nets, recipes
from svdistill.data import standardize
from svdistill.jobs.diagnostics import Tapped, diagnose
from svdistill.losses import SVDLoss
from svdistill.losses.maps import channels_first
from svdistill.recipes import build
from svdistill.recipes.images import load_images
from svdistill.report.drawing import Pair, TapView, draw_method

RECIPE = "digits/svd-recommended"


def look(teacher: Tapped, student: Tapped, image: Tensor) -> tuple[list[TapView], list[TapView], Tensor]:
    """Return what both networks' taps give for one image, with the vectors that the loss compares.

    Args:
        teacher: the large network.
        student: the small one, with as many taps.
        image: (1, C, H, W), standardized.

    Returns:
        The teacher's taps, the student's, and the student's probabilities (classes,).
    """
    found = diagnose(student, teacher, images=image, pictures=1)
    views = []
    for who, tapped in (("teacher", teacher), ("student", student)):
        with torch.no_grad(), nets.eval_mode(tapped.network), nets.Taps(tapped.network, tapped.taps) as taps:
            outputs = tapped.network(image).softmax(1)[0]
            maps = taps.collect()
        names = [name if a.ndim > 2 else "last hidden\nfeatures" for name, a in zip(tapped.taps, maps, strict=True)]
        matrices = [channels_first(a)[0].mT.double().numpy() for a in maps]
        vectors = [found[f"{who}_vectors_{i}"][0].astype(float) for i in range(len(maps))]
        views.append([TapView(*parts) for parts in zip(names, matrices, vectors, strict=True)])
    return views[0], views[1], outputs


def trained(overrides: list[str], runs: Path, number: int) -> Pair:
    """Train the pair, or find it trained, and look at one of the test images."""
    recipe, parent = recipes.lineage(recipes.load(RECIPE, overrides))
    student, teacher = (jobs.train(one, runs=runs).student() for one in (recipe, parent))
    loss = next(loss for loss in build.losses(recipe).values() if isinstance(loss, SVDLoss))
    images = load_images(recipe)
    raw = next(iter(images.test.batches([torch.tensor([number])])))
    networks = Tapped(teacher, build.teacher_taps(recipe, parent)), Tapped(student, build.taps(recipe))
    theirs, own, outputs = look(*networks, standardize(raw, images.mean, images.std))
    return Pair(
        image=raw[0].numpy(),
        teacher=theirs,
        student=own,
        weights=(_weights(teacher), _weights(student)),
        outputs=outputs.double().numpy(),
        label=images.test.classes[int(images.test.labels[number])],
        beta=loss.settings.beta,
    )


def _weights(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def main() -> None:
    """Make the drawing that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drawing", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"replace settings of {RECIPE}")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs; those that are there are used")
    parser.add_argument("--image", type=int, default=0, metavar="N", help="number of the test image")
    parser.add_argument("--output", type=Path, default=Path("docs/method.png"), metavar="FILE")
    given = parser.parse_args()
    draw_method(trained(given.overrides, given.runs, given.image), given.output)
    print(given.output)


if __name__ == "__main__":
    main()
