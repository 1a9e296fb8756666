"""A teacher that is trained on its student's own labelled images."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.sweep.small import OWN

from svdistill import recipes, sweep
from svdistill.errors import RecipeError
from svdistill.recipes.images import load_images

SAME = "teacher.same_images=true"


def teacher_of(*overrides: str, name: str = "digits/svd") -> recipes.Recipe:
    """Return the teacher's recipe of a recipe that has one."""
    found = recipes.teacher_of(recipes.load(name, overrides))
    assert found is not None
    return found


def test_it_has_the_student_s_seed_and_share() -> None:
    """So its labelled images are the student's, which those of the same size but another seed are not."""
    share = ["data.train_size=60", "seed=3"]
    teacher = teacher_of(*share, SAME)
    assert (teacher.seed, teacher.data.train_size) == (3, 60)
    other = teacher_of(*share, "teacher.overrides.data.train_size=60")
    assert (other.seed, other.data.train_size) == (0, 60)
    own = load_images(recipes.load("digits/svd", share)).train
    labels, others = (load_images(one).train.digests() for one in (teacher, other))
    assert torch.equal(labels, own.digests())
    assert not torch.equal(others, own.digests())
    assert teacher_of(SAME, "data.train_size=null").data.train_size is None


def test_the_run_is_named_for_its_teacher_alone() -> None:
    """The setting changes which teacher there is; where it comes to the same, the run is the same."""
    share = ["data.train_size=60", "seed=3"]
    same = recipes.identity(recipes.load("digits/svd", [*share, SAME]))
    spelt = [*share, "teacher.overrides={seed: 3, data: {train_size: 60}}"]
    assert same == recipes.identity(recipes.load("digits/svd", spelt))
    assert same != recipes.identity(recipes.load("digits/svd", share))


def test_a_comparison_of_both_series(tmp_path: Path) -> None:
    """One teacher of all images serves every share and seed; of the same images there is one for each of them."""
    settings = [setting for setting in OWN if not setting.startswith("data.train_size")]
    settings += [*(f"teacher.overrides.{setting}" for setting in settings), "train.device=cpu"]
    axes = ["data.train_size=[20,40]", "teacher.same_images=[false,true]"]
    planned = sweep.plan(
        "digits/svd", overrides=[*settings, *axes], methods=["alone", "svd"], seeds=[0, 1], runs=tmp_path
    )
    teachers = [member for member in planned.members if member.method == "teacher"]
    assert [(member.recipe.data.train_size, member.seed) for member in teachers] == [
        (None, 0),
        (20, 0),
        (40, 0),
        (20, 1),
        (40, 1),
    ]
    assert len(planned.members) == len(teachers) + 2 * (2 + 4)


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ([SAME, "teacher.overrides.seed=1"], r"^teacher\.overrides\.seed: .* it is the student's; leave it out"),
        ([SAME, "teacher.overrides.data.train_size=9"], r"^teacher\.overrides\.data\.train_size: .* leave it out"),
        (
            [SAME, "data.classes=['1','2']", "teacher.overrides.data.classes=['2','1']"],
            r"^teacher\.same_images: the teacher 'digits/teacher' has .* for data\.classes and the student .* take ",
        ),
        ([SAME, "data.task=rotation", "data.augment.flip=false"], r"^teacher\.same_images: .* for data\.task and "),
        (
            [SAME, "data.train_size=null", "teacher.recipe=fashion-mnist/teacher"],
            r"^teacher\.same_images: .* 'fashion-mnist' for data\.name and the student 'digits'; take ",
        ),
        ([SAME, "data.train_size=25"], r"^teacher\.overrides\.train\.batch_size: 50 is more than the 25 images"),
        (["teacher={checkpoint: a.safetensors, same_images: true}"], r"^teacher\.same_images: a checkpoint is trained"),
    ],
)
def test_what_cannot_be(overrides: Sequence[str], match: str) -> None:
    """One line before work starts: settings that the student's replace, other images, other labels."""
    with pytest.raises(RecipeError, match=match) as caught:
        recipes.lineage(recipes.load("digits/svd", overrides))
    assert "\n" not in str(caught.value)
