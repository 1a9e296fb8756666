"""Tests of the regimes' tables and of the command that measures them."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import regimes, table
from svdistill import recipes


def runs(*accuracies: float, flops: float = 2e6, labels: int = 50) -> dict[str, dict[str, Any]]:
    """Return what runs of the seeds 0, 1, … came to."""
    rest = {"best_accuracy": 1.0, "seconds": 7.4, "parameters": 10, "flops": flops, "train_images": labels, "epochs": 3}
    return {str(seed): {"accuracy": value, "run": f"{seed}-abc", **rest} for seed, value in enumerate(accuracies)}


def test_gains_are_paired_and_what_is_missing_is_said() -> None:
    """Differences of 10, 12 and 14 points: mean 12, s = 2, t = 4.303, so ± 4.303 · 2 / √3 = 4.97."""
    found = {
        "teacher": runs(0.97, flops=9e6),
        "alone": runs(0.80, 0.82, 0.84),
        "svd-recommended": runs(0.90, 0.94, 0.98),
        "fsp": runs(0.79),
    }
    made = regimes.table({"regimes": {"digits-few": found}})
    assert "Teacher 97.00 % of its own task, 9.00 MFLOPs; student 2.00 MFLOPs, 50 labels." in made
    assert "| KD-SVD as we recommend it | 94.00 ± 4.00 | +12.00 (+7.03 to +16.97) | | 3 | 7 |" in made
    assert "| student alone | 82.00 ± 2.00 | | +12.00 (+7.03 to +16.97) | 3 | 7 |" in made
    assert "| FSP | 79.00 | −1.00 | +11.00 | 1 | 7 |" in made
    assert "Not measured: soft targets; soft targets, standardized; DKD; FitNets; AT; RKD; KD-SVD as published;" in made
    without = regimes.table({"regimes": {"digits-few": {"svd-recommended": runs(0.9)}}})
    assert "Not measured: student alone; soft targets;" in without
    assert "| KD-SVD as we recommend it | 90.00 | |  | 1 | 7 |" in without


def test_a_student_alone_needs_no_images_without_labels() -> None:
    """It is trained once, and is the baseline of both regimes."""
    with_others = next(one for one in regimes.SECTIONS["regimes-cifar100"] if one.alone == "cifar100-resnet-10")
    assert "alone" not in with_others.own_methods
    found = {
        "cifar100-resnet-10": {"alone": runs(0.2)},
        "cifar100-resnet-10-unlabelled": {"dkd": runs(0.3)},
    }
    made = regimes.table({"regimes": found}).partition("cifar100-resnet-10-unlabelled")[2]
    assert "| student alone | 20.00 | | 1 | 7 |" in made
    assert "| DKD | 30.00 | +10.00 | 1 | 7 |" in made


def test_the_regimes_of_a_series_side_by_side() -> None:
    """Bold is the best and what an interval does not tell from it, as 3 ± 25.4 points of two seeds do not."""
    found = {
        "cifar100-vgg-10": {
            "teacher": runs(0.9),
            "alone": runs(0.2, 0.24),
            "dkd": runs(0.3, 0.3),
            "fsp": runs(0.31, 0.35),
        },
        "cifar100-vgg-10-unlabelled": {"svd-recommended": runs(0.4, 0.42), "fsp": runs(0.3)},
    }
    lines = regimes.table({"regimes": found}).splitlines()
    assert lines[2] == "| | VGG, 10 % | VGG, 10 %, others beside |"
    assert lines[4:8] == [
        "| student alone | 22.0 | 22.0 |",
        "| DKD | **30.0** | – |",
        "| FSP | **33.0** | 30.0 |",
        "| KD-SVD as we recommend it | – | **41.0** |",
    ]


def test_where_a_method_of_ours_is_ahead() -> None:
    """Five points on each of three seeds are sure; 5 and 6 on two, 5.5 ± 6.4, are not; a single seed tells nothing."""
    plain = {
        "alone": runs(0.30, 0.30, 0.31),
        "dkd": runs(0.32, 0.36, 0.34),
        "fsp": runs(0.40, 0.41, 0.40),
        "svd-recommended": runs(0.35, 0.35, 0.36),
        "relational": runs(0.1),
    }
    beside = {"svd-recommended": runs(0.35, 0.36), "fsp": runs(0.3, 0.3)}
    made = regimes.table({"regimes": {"cifar100-vgg-10": plain, "cifar100-vgg-10-unlabelled": beside}})
    lines = made.partition("KD-SVD as we recommend it, beside each other method")[2].splitlines()
    assert lines[2:6] == [
        "| | surely ahead of | not told from | surely behind |",
        "| --- | --- | --- | --- |",
        "| VGG, 10 % | student alone | DKD | FSP |",
        "| VGG, 10 %, others beside | | student alone; FSP | |",
    ]


def test_a_regime_that_only_lends_its_student_has_no_table() -> None:
    """Its student alone stands in the table of the regime that it is lent to; alone it would have one."""
    lender = {"cifar100-vgg-10": {"teacher": runs(0.9), "alone": runs(0.2)}}
    made = regimes.table({"regimes": {**lender, "cifar100-vgg-10-unlabelled": {"dkd": runs(0.3)}}})
    assert "`regimes/cifar100-vgg-10`" not in made
    assert "| DKD | 30.00 | +10.00 | 1 | 7 |" in made
    assert "| student alone | 20.00 | | 1 | 7 |" in made
    assert "`regimes/cifar100-vgg-10`" in regimes.table({"regimes": lender})


def test_students_of_another_teacher_stand_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor may round otherwise: such figures are refused beside the known ones, and have a file of their own."""
    monkeypatch.setattr(regimes, "FIGURES", tmp_path)
    monkeypatch.setattr(table, "update", lambda: None)
    monkeypatch.setattr(regimes, "measure", lambda *_, **__: {"teacher": runs(0.41), "dkd": runs(0.3)})
    file = tmp_path / "regimes-cifar100.json"
    text = json.dumps({"regimes": {"cifar100-vgg-10": {"teacher": runs(0.39), "fsp": runs(0.2)}}})
    file.write_text(text)
    with pytest.raises(SystemExit, match=r"teacher trained here has 41.00 %, that of regimes-cifar100.json 39.00 %"):
        regimes.main(["cifar100-vgg-10"])
    assert file.read_text() == text
    regimes.main(["cifar100-vgg-10", "--apart", "avx2"])
    apart = json.loads((tmp_path / "regimes-cifar100-avx2.json").read_text())
    assert list(apart["regimes"]["cifar100-vgg-10"]) == ["teacher", "dkd"]
    assert file.read_text() == text
    made = table.section("regimes-cifar100-avx2", apart)
    assert "| DKD | 30.00 |" in made
    assert "Not measured" not in made


def test_soft_targets_have_nothing_to_say_of_other_classes() -> None:
    """Neither they nor what contains them is compared there; the table says why."""
    regime = next(one for one in regimes.SECTIONS["regimes-digits"] if one.recipe == "digits-other-classes")
    assert not set(regimes.BY_CLASS) & set(regime.methods)
    assert "fitnet-hint" in regime.methods
    made = regimes.table({"regimes": {regime.recipe: {"alone": runs(0.9)}}})
    assert "| soft targets | – | nothing to say of these classes |" in made


def test_every_regime_has_its_recipe_and_taps() -> None:
    """And its place on a page; the published method has taps that its networks have."""
    places = [name for page in table.PAGES for name in table.sections(page.read_text())]
    for section, found in regimes.SECTIONS.items():
        assert places.count(section) == 1
        for regime in found:
            taps = f"[{regime.taps}]"
            recipe = recipes.load(f"regimes/{regime.recipe}", [f"model.taps={taps}"], method=regimes.PUBLISHED)
            assert recipe.model.taps == tuple(regime.taps.split(","))


def test_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A regime is compared, and its figures join those that an earlier call measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(regimes, "FIGURES", tmp_path)
    monkeypatch.setattr(table, "update", lambda: None)
    file = tmp_path / "regimes-digits.json"
    earlier = {"fsp": runs(0.5), "alone": runs(0.1, 0.2)}  # the latter of settings that have changed since
    file.write_text(json.dumps({"regimes": {"digits-other-classes": earlier}}))
    regimes.main(["digits-other-classes", "--methods", "alone", "--seeds", "1", "--jobs", "1"])
    found = json.loads(file.read_text())
    assert found["machine"]["cores"] > 0
    compared = found["regimes"]["digits-other-classes"]
    assert compared["fsp"] == runs(0.5)
    assert list(compared["alone"]) == ["0"]
    assert 0.5 < compared["alone"]["0"]["accuracy"] <= 1
    with pytest.raises(SystemExit):
        regimes.main(["digits-otter"])
