"""A loss is added the way CONTRIBUTING.md says, to a copy of the package: nothing else has to know of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import svdistill

LOSS = '''"""Toy: the mean of each map."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from svdistill.losses.protocol import Reads, TransferLoss


class ToyLoss(nn.Module, TransferLoss):
    """Squared error of the student's mean at each tap against the teacher's."""

    reads: ClassVar[Reads] = "maps"
    least_taps: ClassVar[int] = 2

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def measure(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.compare(student, self.extract(teacher, student))

    def extract(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        return _means(teacher).detach()

    def compare(self, student: Sequence[Tensor], goal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.scale * (_means(student) - goal).square().mean(), {}

    def pack(self, goal: Tensor) -> dict[str, Tensor]:
        return {"means": goal}

    def unpack(self, stored: Mapping[str, Tensor]) -> Tensor:
        return stored["means"]


def _means(maps: Sequence[Tensor]) -> Tensor:
    return torch.stack([one.float().flatten(1).mean(1) for one in maps], 1)
'''

SETTINGS = '''class ToyLossSettings(LossSettings):
    """Toy.

    Attributes:
        scale: factor on the squared error.
    """

    makes = "svdistill.losses:ToyLoss"

    name: Literal["toy"]
    scale: float = Field(default=1.0, gt=0)


'''

METHOD = """description: The mean of each map
label: Toy means
order: 8
loss: {name: toy, weight: 3}
train: {first_stage: 0}
"""

RECIPE = """extends: digits/svd
data: {train_size: 20}
model: {width: 0.1}
teacher: {overrides: {model: {width: 0.1}, train: {epochs: 1}}}
loss: {name: toy, scale: 2}
train: {epochs: 2, batch_size: 10, device: cpu}
"""

PROGRAM = """
import json
from svdistill import jobs, methods, recipes
from svdistill.errors import RecipeError

def refused(call):
    try:
        call()
    except RecipeError as error:
        return str(error)

run = jobs.train("mine.yaml", runs="runs")
print(json.dumps({
    "compared": recipes.compared_methods(),
    "label": methods.shipped()["toy"].label,
    "method": run.recipe.method,
    "loss": run.recipe.to_dict()["loss"],
    "transfer": [line["transfer"] for line in run.metrics],
    "by_method": recipes.load("digits/svd", method="toy").loss[0].model_dump(),
    "misspelt": refused(lambda: recipes.load("mine.yaml", ["loss.scael=3"])),
    "one_tap": refused(lambda: jobs.train(
        "mine.yaml", overrides=["model.taps=[block1]", "teacher.taps=[block1]"], runs="runs"
    )),
}))
"""


def put(file: Path, before: str, entry: str) -> None:
    """Add an entry to a list or a module, in front of a text that is there once."""
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1, (file, before)
    file.write_text(text.replace(before, entry + before), encoding="utf-8")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a copy of the package, to which the loss was added, says of it and makes of it."""
    folder = tmp_path_factory.mktemp("toy")
    package = folder / "svdistill"
    shutil.copytree(Path(svdistill.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "losses" / "toy.py").write_text(LOSS, encoding="utf-8")
    put(package / "losses" / "__init__.py", "\n__all__ = [", "from svdistill.losses.toy import ToyLoss\n")
    put(package / "losses" / "__init__.py", '    "SVDLoss",', '    "ToyLoss",\n')
    put(package / "recipes" / "losses.py", "# All losses that a recipe may name", SETTINGS)
    put(package / "recipes" / "losses.py", ',\n    Field(discriminator="name"),', "\n    | ToyLossSettings")
    (package / "recipes" / "methods" / "toy.yaml").write_text(METHOD, encoding="utf-8")
    (folder / "mine.yaml").write_text(RECIPE, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_it_trains_by_a_recipe_file(told: dict[str, Any]) -> None:
    """With its settings, which are written down in full; its loss is there in every epoch."""
    assert told["method"] == "toy"
    assert (told["loss"]["name"], told["loss"]["scale"], told["loss"]["weight"]) == ("toy", 2, 1)
    assert len(told["transfer"]) == 2
    assert all(value > 0 for value in told["transfer"])


def test_it_is_a_method_like_the_others(told: dict[str, Any]) -> None:
    """It has a label, stands in the standard comparison where its order says, and can be laid over a recipe."""
    assert told["compared"] == [*svdistill.recipes.compared_methods(), "toy"]
    assert told["label"] == "Toy means"
    assert (told["by_method"]["name"], told["by_method"]["weight"]) == ("toy", 3)


def test_what_is_wrong_with_it_is_found_before_work(told: dict[str, Any]) -> None:
    """A misspelt setting, and fewer taps than the loss declares."""
    assert told["misspelt"].startswith("loss.scael: unknown key for loss 'toy'; did you mean 'scale'")
    assert told["one_tap"].startswith("model.taps: toy relates neighbouring taps, expected at least 2, got ['block1']")
