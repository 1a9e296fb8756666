"""The worked example of docs/own-model.md, on scans of digits, small: folders, a teacher without labels, a probe."""

import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

import svdistill

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "own_model"
QUICK = [
    "train.first_stage=15",
    "train.epochs=40",
    "train.evaluate_every=55",
    "teacher.overrides.train.epochs=3",
    "teacher.overrides.train.batch_size=50",
    "teacher.overrides.model.arguments.num_hidden_layers=2",
]


def test_the_page_shows_the_recipe() -> None:
    """Word for word."""
    shown = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "own-model.md").read_text(encoding="utf-8"), re.DOTALL)
    assert (EXAMPLE / "own.yaml").read_text(encoding="utf-8") in shown


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student of photos without labels, whose output layer has learnt from ten labels a class, tells digits apart."""
    pytest.importorskip("transformers")
    for name in ("own.yaml", "teacher.yaml"):
        shutil.copy(EXAMPLE / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["folders.py", "digits", "400", "200"])
    runpy.run_path(str(EXAMPLE / "folders.py"), run_name="__main__")
    assert (len(list(Path("photos/train").rglob("*.png"))), len(os.listdir("labelled/train"))) == (400, 10)
    run = svdistill.train("own.yaml", overrides=QUICK)
    print(run.accuracy if hasattr(run, "accuracy") else run.record.metrics.read()[-1])
