"""Settings → the objects of a run: networks, losses, distiller, stages, optimizer. Errors name the key to change."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pkgutil import resolve_name

import torch
from torch import nn

from svdistill import data, nets, training
from svdistill.choices import BOUND, whole_epochs
from svdistill.distiller import Distiller
from svdistill.errors import RecipeError
from svdistill.losses.protocol import Losses
from svdistill.nets.layouts import Layouts
from svdistill.nets.trace import trace
from svdistill.recipes.images import Images, batches, noise
from svdistill.recipes.losses import AnyLoss, LossSettings
from svdistill.recipes.naming import named
from svdistill.recipes.schema import Recipe
from svdistill.recipes.told import told
from svdistill.recipes.weights import begin, converted
from svdistill.teacher import Teacher


def model(recipe: Recipe, images: Images) -> nn.Module:
    """Make the network of a recipe, with fresh weights from torch's global generator unless it begins with others.

    Args:
        recipe: its part ``model`` is read.
        images: say how many channels come in and how many classes go out.

    Returns:
        The network, in train mode.

    Raises:
        RecipeError: an unknown network, a width that leaves no channel, or arguments of which it cannot be made.
        CheckpointError: the weights that it begins with are missing or damaged, or do not fit.
    """
    settings, classes = recipe.model, images.train.num_classes
    with named("model"):
        network = nets.create(
            settings.name,
            num_classes=classes,
            in_channels=images.shape[0],
            width=settings.width,
            arguments=settings.arguments,
            pretrained=settings.pretrained,
            allow_code=recipe.allow_code,
        )
    with named("model.checkpoint"):
        begin(network, recipe, num_classes=classes)
    return network


def untrained_teacher(recipe: Recipe, images: Images, students: Images) -> nn.Module:
    """Build the teacher of a recipe before it is trained, for images that are standardized for the student.

    Args:
        recipe: the teacher's.
        images: the teacher's.
        students: the student's images.

    Raises:
        CheckpointError: the student's images have other channels.
    """
    return converted(model(recipe, images), students, scale=(images.mean, images.std), size=None, what="the teacher")


def taps(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the student's taps: the recipe's own, else those found for it, else its model's."""
    if recipe.found is not None:
        return recipe.found.student
    return recipe.model.taps or nets.default_taps(recipe.model.name)


def known_taps(recipe: Recipe) -> tuple[str, ...] | None:
    """Return the names of the student's taps, where the recipe or its model names any; else None."""
    return recipe.model.taps or _own_taps(recipe.model.name)


def teacher_taps(recipe: Recipe, teacher: Recipe | None) -> tuple[str, ...]:
    """Return the names of the teacher's taps.

    Args:
        recipe: the student's recipe, which has a teacher.
        teacher: the teacher's recipe; None where it has none.

    Returns:
        Those found for the recipe, else those of ``teacher.taps``, else of the teacher's recipe or what its file says,
        else of its model.

    Raises:
        CheckpointError: the teacher's file is missing or damaged.
    """
    if recipe.found is not None:
        return recipe.found.teacher
    return known_teacher_taps(recipe, teacher) or nets.default_taps(_teacher_name(recipe, teacher))


def known_teacher_taps(recipe: Recipe, teacher: Recipe | None) -> tuple[str, ...] | None:
    """Return the names of the teacher's taps, where a recipe, its file or its model names any; see `teacher_taps`."""
    assert recipe.teacher is not None
    if recipe.teacher.taps is not None:
        return recipe.teacher.taps
    if teacher is not None:
        return known_taps(teacher)
    name = _teacher_name(recipe, teacher)
    if recipe.teacher.model is not None:
        return _own_taps(name)
    with named("teacher.checkpoint"):
        file = Path(str(recipe.teacher.checkpoint))
        return told(file, nets.spec(file), "taps") or _own_taps(name)


def _teacher_name(recipe: Recipe, teacher: Recipe | None) -> str:
    assert recipe.teacher is not None
    if teacher is not None:
        return teacher.model.name
    if recipe.teacher.model is not None:
        return recipe.teacher.model.name
    with named("teacher.checkpoint"):
        return str(nets.spec(Path(str(recipe.teacher.checkpoint)))["name"])


def _own_taps(name: str) -> tuple[str, ...] | None:
    return None if nets.foreign.is_foreign(name) else nets.default_taps(name)


def drop_tokens(recipe: Recipe, teacher: Recipe | None) -> tuple[int, int]:
    """Return how many tokens at the front of (B, N, D) taps are left out, of the student's and of the teacher's.

    Args:
        recipe: the student's recipe.
        teacher: the teacher's recipe; None where there is none or it is a checkpoint.
    """
    own = _told_drop_tokens(recipe) if teacher is None else teacher.model.drop_tokens
    if recipe.teacher is not None and recipe.teacher.drop_tokens is not None:
        own = recipe.teacher.drop_tokens
    if recipe.found is not None:
        return recipe.model.drop_tokens or recipe.found.student_drop_tokens, own or recipe.found.teacher_drop_tokens
    return recipe.model.drop_tokens, own


def _told_drop_tokens(recipe: Recipe) -> int:
    """Return what a teacher's file says of the tokens in front at the taps that it names; 0 where it says nothing."""
    if recipe.teacher is None or recipe.teacher.checkpoint is None or recipe.teacher.taps is not None:
        return 0
    with named("teacher.checkpoint"):
        file = Path(recipe.teacher.checkpoint)
        return int(told(file, nets.spec(file), "drop_tokens") or 0)


def layouts(recipe: Recipe, teacher: Recipe | None) -> tuple[Layouts, Layouts]:
    """Return the layouts of the student's maps and of the teacher's; None where they are told by the maps.

    Args:
        recipe: the student's recipe.
        teacher: the teacher's recipe; None where there is none or it is a checkpoint.
    """
    own = None if teacher is None else teacher.model.layout
    if recipe.teacher is not None and recipe.teacher.layout is not None:
        own = recipe.teacher.layout
    return recipe.model.layout, own


# What a loss's settings say of its part in training, not of the loss itself, whose class knows none of it.
_ROLE = {"name", "preset", *LossSettings.model_fields}


def losses(recipe: Recipe) -> Losses:
    """Make the transfer losses of a recipe, by name; {} where it has none."""
    return {loss.name: resolve_name(loss.makes)(**loss.model_dump(exclude=_ROLE)) for loss in recipe.loss}


def distiller(
    recipe: Recipe, student: nn.Module, teacher: nn.Module | Teacher | None, *, teacher_recipe: Recipe | None
) -> Distiller:
    """Put student, teacher and losses together; `Distiller.prepare` is yet to be called.

    Args:
        recipe: the student's.
        student: its network.
        teacher: the trained teacher, or what is stored of it; None trains the student alone.
        teacher_recipe: names the teacher's taps; None where it is a checkpoint.

    Returns:
        The distiller, on the device of the networks.

    Raises:
        RecipeError: an unknown tap.
        ShapeError: taps of different number.
    """
    criteria = losses(recipe)
    if teacher is None or not criteria:
        return Distiller(student)
    if not reads_maps(criteria):
        return Distiller(student, teacher, loss=criteria)
    student_drop, teacher_drop = drop_tokens(recipe, teacher_recipe)
    student_layout, teacher_layout = layouts(recipe, teacher_recipe)
    return Distiller(
        student,
        teacher,
        loss=criteria,
        student_taps=taps(recipe),
        teacher_taps=teacher_taps(recipe, teacher_recipe) if isinstance(teacher, nn.Module) else (),
        student_drop_tokens=student_drop,
        teacher_drop_tokens=teacher_drop,
        student_layout=student_layout,
        teacher_layout=teacher_layout if isinstance(teacher, nn.Module) else None,
    )


def reads_maps(criteria: Losses) -> bool:
    """Whether one of the losses compares feature maps, so that taps are needed."""
    return any(criterion.reads == "maps" for criterion in criteria.values())


@contextmanager
def recomputing(recipe: Recipe, student: nn.Module) -> Iterator[None]:
    """Let the student recompute its activations for a while, where the recipe says so.

    Args:
        recipe: ``train.recompute`` is read.
        student: its network.

    Raises:
        RecipeError: the network has no blocks for it.
    """
    if not recipe.train.recompute:
        yield
        return
    with ExitStack() as stack:
        with named("train.recompute"):
            stack.enter_context(nets.recompute_activations(student))
        yield


def stages(recipe: Recipe, *, output_layer: str | None = None) -> tuple[training.Stage, ...]:
    """Make the stages of training: one, or the transfer task alone and then the main task.

    Where losses of a sum differ in how they are combined with the main task, those that are not bounded (``clip`` none)
    count as part of it. The factors on the main loss are multiplied.

    Args:
        recipe: the student's.
        output_layer: what learns alone in the stage of the main task; None = the whole student.
    """
    knobs, probe = recipe.train, recipe.train.linear_probe
    main = training.Stage(
        knobs.main_epochs,
        _objective(recipe),
        milestones=knobs.milestone_epochs,
        gamma=knobs.gamma,
        schedule=knobs.schedule,
        warm_up=knobs.warm_up_epochs,
        factor=1.0 if probe is None else (probe.lr or recipe.optimizer.lr) / recipe.optimizer.lr,
        learns=output_layer,
    )
    if not knobs.first_stage_epochs:
        return (main,)
    first = [loss for loss in recipe.loss if loss.stage in (None, "first", "both")]
    alone = training.Objective(
        main=0.0,
        weights={loss.name: loss.weight for loss in first},
        warm_up=_warm_up(first, knobs.first_stage_epochs),
        max_norm=knobs.first_stage_norm,
        label_smoothing=knobs.label_smoothing,
    )
    return training.Stage(knobs.first_stage_epochs, alone), main


def output_layer(recipe: Recipe, student: nn.Module, images: Images) -> str:
    """Return the name of the student's output layer, which a linear probe trains alone.

    Raises:
        RecipeError: what the student gives is not that of a last linear layer.
    """
    with named("train.linear_probe"):
        found = trace(student, noise(images).to(next(student.parameters()).device)).output
    if found is None:
        raise RecipeError(
            f"train.linear_probe: {recipe.model.name} has no linear layer that gives its logits; take "
            "train.linear_probe=false"
        )
    return found.name


def _objective(recipe: Recipe) -> training.Objective:
    terms = recipe.beside_main
    clipped = {loss.clip for loss in terms if loss.clip != "none"}
    return training.Objective(
        main=recipe.main_weight,
        weights={loss.name: loss.weight for loss in terms},
        warm_up=_warm_up(terms, recipe.train.main_epochs),
        clip=next(iter(clipped), "none"),
        bound=next((loss.bound for loss in terms if loss.clip == "own_norm"), BOUND),
        beside=frozenset(loss.name for loss in terms if loss.clip == "none") if clipped else frozenset(),
        label_smoothing=recipe.train.label_smoothing,
    )


def _warm_up(terms: Sequence[AnyLoss], epochs: int) -> dict[str, int]:
    """Return in how many epochs of a stage the weights of losses rise, of those whose weight does."""
    rises = {loss.name: whole_epochs(loss.warm_up, of=epochs) for loss in terms}
    return {name: length for name, length in rises.items() if length}


def optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe for the parameters of a network, or of a distiller with all that learns."""
    settings = recipe.optimizer.model_dump(exclude={"name"})
    return training.make_optimizer(recipe.optimizer.name, model, **settings)


def training_plan(
    recipe: Recipe, distiller: Distiller, images: Images, *, shard: data.Shard | None = None
) -> training.TrainingPlan:
    """Put together all that `training.fit` needs to train a distiller by a recipe.

    Args:
        recipe: the student's.
        distiller: what `distiller` returned, prepared.
        images: what `load_images` returned, moved to the device of the training.
        shard: the part of each batch that this process gets; None = the whole.

    Returns:
        The plan, with fresh batches and a fresh optimizer.

    Raises:
        RecipeError: a number of the optimizer is out of range, or there is no output layer to train alone.
    """
    knobs = recipe.train
    alone = output_layer(recipe, distiller.student, images) if knobs.linear_probe is not None else None
    return training.TrainingPlan(
        distiller=distiller,
        optimizer=optimizer(recipe, distiller),
        batches=batches(recipe, images, shard=shard),
        test=images.watched,
        mean=images.mean,
        std=images.std,
        stages=stages(recipe, output_layer=alone),
        evaluate_every=knobs.evaluate_every,
        checkpoint_minutes=knobs.checkpoint_minutes,
        compile=knobs.compile,
        accumulate=knobs.accumulate,
        capture=knobs.capture,
        ema=knobs.ema,
        validates=images.validation is not None,
    )
