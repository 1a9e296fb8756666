"""What the page says first, against comparisons worked by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.report.runs import finish_again, make_run

from svdistill.records import RunRecord
from svdistill.report import next_steps, verdict
from svdistill.report.collect import collect
from svdistill.report.page import contents, context_of

ALONE = (0.70, 0.71, 0.72)


def told(folder: Path, accuracies: Mapping[str, Sequence[float]], *, size: int = 1000) -> list[str]:
    """Write runs with these accuracies, one for each seed, and return what is said of them."""
    for method, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            made = {"accuracy": accuracy, "best_accuracy": accuracy}
            make_run(folder, method, seed, size=size, diagnostics=False, summary=made)
    return verdict.headline(context_of(collect([folder])))


@pytest.mark.parametrize(
    ("accuracies", "says"),
    [
        # Gains 3, 4, 2: mean 3, s = 1, and t = 4.303 of two degrees of freedom gives ± 4.303 / √3 = 2.48.
        # Over soft targets 1, 2, 0.5: mean 1.17, s = 0.764, ± 1.90. Their gains 2, 2, 1.5 exclude zero too.
        (
            {"alone": ALONE, "soft-target": (0.72, 0.73, 0.735), "svd": (0.73, 0.75, 0.74)},
            "KD-SVD won, at 74.00 ± 1.00 %: +3.00 points over the student alone on 3 seeds (95 % interval +0.52 to "
            "+5.48, which excludes zero). The runner-up is soft targets, at 72.83 ± 0.76 %: the two cannot be told "
            "apart: 1.17 points between them on 3 seeds (95 % interval −0.73 to +3.06, which includes zero). Also "
            "better than the student alone, with intervals that exclude zero: soft targets, +1.83 points.",
        ),
        # Over soft targets 2, 2.1, 2.2: mean 2.1, s = 0.1, ± 0.25.
        (
            {"alone": ALONE, "soft-target": (0.71, 0.729, 0.718), "svd": (0.73, 0.75, 0.74)},
            "KD-SVD is ahead of it by 2.10 points on 3 seeds (95 % interval +1.85 to +2.35, which excludes zero).",
        ),
        # Gains 3, 1, 0.5: mean 1.5, s = 1.32, ± 3.29.
        (
            {"alone": ALONE, "svd": (0.73, 0.72, 0.725)},
            "KD-SVD came out best, at 72.50 ± 0.50 %, but cannot be told apart from the student alone: +1.50 points "
            "over the student alone on 3 seeds (95 % interval −1.79 to +4.79, which includes zero).",
        ),
        # Gains −2, −2, −3: mean −2.33, s = 0.577, ± 1.43.
        (
            {"alone": ALONE, "svd": (0.68, 0.69, 0.69)},
            "Nothing beat the student alone, which reaches 71.00 ± 1.00 %. Next is KD-SVD, at 68.67 ± 0.58 %: the "
            "student alone is ahead of it by 2.33 points on 3 seeds (95 % interval +0.90 to +3.77, which excludes "
            "zero).",
        ),
        (
            {"alone": ALONE, "svd": ALONE},
            "Nothing beat the student alone, which reaches 71.00 ± 1.00 %. Next is KD-SVD, at 71.00 ± 1.00 %: the two "
            "cannot be told apart: 0.00 points between them on 3 seeds (95 % interval 0.00 to 0.00, which includes "
            "zero).",
        ),
        (
            {"alone": ALONE[:1], "svd": (0.75,)},
            "KD-SVD came out best, at 75.00 %, +5.00 points over the student alone on one seed: not seeds enough to "
            "tell it from chance.",
        ),
        (
            {"soft-target": (0.74, 0.74), "svd": (0.75, 0.75)},
            "KD-SVD is best, at 75.00 ± 0.00 %; without a student alone, nobody knows what it gained. The runner-up "
            "is soft targets, at 74.00 ± 0.00 %: KD-SVD is ahead of it by 1.00 points on 2 seeds",
        ),
        # One run of a method that is not done yet is not ranked, however good it is.
        (
            {"alone": ALONE, "soft-target": (0.9,), "svd": (0.73, 0.75, 0.74)},
            "KD-SVD won, at 74.00 ± 1.00 %: +3.00 points over the student alone on 3 seeds (95 % interval +0.52 to "
            "+5.48, which excludes zero). Not ranked, as they have one seed: soft targets, 90.00 %.",
        ),
        # Gains 0.002, 0.003, 0.0025 points: an end that is not zero is not written as 0.00.
        (
            {"alone": ALONE, "svd": (0.70002, 0.71003, 0.720025)},
            "(95 % interval +0.001 to +0.004, which excludes zero)",
        ),
    ],
)
def test_one_regime(tmp_path: Path, accuracies: dict[str, tuple[float, ...]], says: str) -> None:
    """A win, a lead, a tie, a loss, one seed, no baseline: each is said as it is."""
    (sentence,) = told(tmp_path, accuracies)
    assert says in sentence
    assert ("won" in sentence) == ("won" in says or "is ahead of it by 2.10" in says or "0.001" in says)


def test_several_regimes(tmp_path: Path) -> None:
    """The first sentence is of all of them, and a method that wins in one only is not said to win in all."""
    told(tmp_path, {"alone": ALONE, "svd": (0.73, 0.75, 0.74)})
    first, *rest = told(tmp_path, {"alone": ALONE, "svd": (0.73, 0.72, 0.725)}, size=5000)
    assert first == (
        "Best, and better than the student alone with an interval that excludes zero: KD-SVD in 1 of 2 settings."
    )
    assert [text.partition(": ")[0] for text in rest] == ["1,000 labelled images", "5,000 labelled images"]
    assert "won" in rest[0]
    assert "cannot be told apart" in rest[1]


def test_unequal_seeds(tmp_path: Path) -> None:
    """A gain is of the seeds in common, and the sentence says so; there the highest mean may be a loss."""
    (sentence,) = told(tmp_path, {"alone": (0.70, 0.71), "svd": (0.69, 0.69, 0.90, 0.90)})
    assert "but cannot be told apart from the student alone: −1.50 points" in sentence
    assert "over the student alone on 2 seeds in common" in sentence


def test_unequal_lengths(tmp_path: Path) -> None:
    """A lead of a longer training is said to be one, and the command makes all as long."""
    for method, lengths in (("alone", 6), ("soft-target", 8), ("svd", 9)):
        for seed in range(2):
            made = {"accuracy": 0.7 + 0.01 * lengths + 0.001 * seed, "epochs": lengths}
            make_run(tmp_path, method, seed, diagnostics=False, summary=made)
    context = context_of(collect([tmp_path]))
    (sentence,) = verdict.headline(context)
    assert (
        "KD-SVD trained for 9 epochs, the student alone for 6 and soft targets for 8: a part of the difference may be "
        "the longer training."
    ) in sentence
    (step,) = (step for step in next_steps.steps(context) if "trained for" in step.seen)
    assert step.seen == "KD-SVD trained for 9 epochs, the student alone for 6"
    assert step.settings == "train.epochs=9 train.first_stage_counts=true"
    assert step.command.startswith("for s in 0 1; do svdistill train ")
    assert step.command.count("train.epochs=9") == 2
    assert step.command.count("train.first_stage_counts=true") == 1
    assert "trained for" not in told(tmp_path / "alike", {"alone": ALONE, "svd": (0.73, 0.75, 0.74)})[0]


def test_other_settings(tmp_path: Path) -> None:
    """Settings in which the best method and what it is compared with differ are named, but for its own."""
    train = {"epochs": 6, "first_stage": 0, "device": "cpu", "ema": None, "milestones": []}
    for seed, accuracy in enumerate(ALONE):
        alike = {"diagnostics": False, "epochs": 6}
        make_run(tmp_path, "alone", seed, summary={"accuracy": accuracy}, train=train, **alike)
        other = {"train": {**train, "ema": 0.9, "milestones": [0.5]}, "optimizer": {"name": "sgd", "lr": 0.2}}
        make_run(tmp_path, "svd", seed, summary={"accuracy": accuracy + 0.02}, **alike, **other)
    (sentence,) = verdict.headline(context_of(collect([tmp_path])))
    assert (
        "KD-SVD was not trained as the student alone was: optimizer.lr 0.2 against 0.1; train.ema 0.9 against none; "
        "train.milestones [0.5] against []. The difference may come from these settings."
    ) in sentence
    assert "not trained as" not in told(tmp_path / "alike", {"alone": ALONE, "svd": (0.73, 0.75, 0.74)})[0]


def test_no_method_is_compared_with_itself(tmp_path: Path) -> None:
    """Where the student alone is best and the only other method level with it, nothing is told of that one twice."""
    told(tmp_path, {"alone": ALONE, "svd": ALONE})
    assert not [step for step in next_steps.steps(context_of(collect([tmp_path]))) if "cannot be told" in step.seen]


def test_images_set_aside_are_a_share_of_all_that_were_seen(tmp_path: Path) -> None:
    """Those without labels count: 15 of 1,000 a second for a second, though 1,000 epochs of labels would be fewer."""
    for rate, advised in ((1000.0, True), (2000.0, False)):
        line = {"epoch": 1, "loss": 1.0, "accuracy": 0.7, "set_aside": 15, "seconds": 1.0, "images_per_second": rate}
        folder = tmp_path / str(rate)
        for method in ("alone", "svd"):
            for seed, accuracy in enumerate(ALONE):
                made = {"accuracy": accuracy, "best_accuracy": accuracy}
                make_run(folder, method, seed, size=1000, summary=made, metrics=[line], diagnostics=False)
        found = [step.seen for step in next_steps.steps(context_of(collect([folder])))]
        assert any("samples in 3 epochs aside" in seen for seen in found) == advised


def test_next_steps(tmp_path: Path) -> None:
    """What was seen leads to what to change: seeds that would suffice, epochs, and the rules of the doctor."""
    lines = [
        {
            "epoch": e,
            "loss": 1.0,
            "ratio": 30.0,
            "passed": 0.01,
            "accuracy": 0.1 * e,
            "alignment": 0.5,
            "set_aside": 900,
        }
        for e in range(1, 7)
    ]
    lines = [{**line, "energy_student": 0.8, "energy_teacher": 0.2, "dropped": 0} for line in lines]
    for seed, (alone, svd) in enumerate(zip(ALONE, (0.73, 0.72, 0.725), strict=True)):
        make_run(tmp_path, "alone", seed, summary={"accuracy": alone, "best_accuracy": alone})
        loss = {"name": "svd", "rank": 1, "clip": "per_variable", "weight": 1.0}
        made = {"accuracy": svd, "best_accuracy": svd}
        run = make_run(tmp_path, "svd", seed, summary=made, metrics=lines, loss=loss)
    found = {step.seen: step for step in next_steps.steps(context_of(collect([tmp_path])))}
    more = found["the interval of KD-SVD includes zero with 3 seeds"]
    # 2.571 · 1.323 / √6 = 1.39 is the first half-width below 1.5.
    assert (more.settings, "6 would tell 1.50 points from zero" in more.change) == ("seed=3,4,5", True)
    assert more.command.count("svdistill train") == 2
    settings = [step.settings for step in found.values()]
    assert settings[1:5] == ["train.epochs=12", "loss.clip=own_norm", "loss.rank=2", ""]
    assert any("5,400 samples in 18 epochs" not in seen and "samples in 18 epochs" in seen for seen in found)
    assert any("alignment went from 0.50 to 0.50" in seen for seen in found)
    rank = next(step for step in found.values() if step.settings == "loss.rank=2")
    assert f"{run.parent}/0-" in rank.command
    assert f"--runs {next_steps.os.path.relpath(tmp_path)}" in rank.command


@pytest.mark.parametrize(("rank", "beside"), [(1, []), (4, []), (4, [{"name": "dkd", "clip": "none"}])])
def test_more_vectors_of_the_student_s_own_are_not_advised(
    tmp_path: Path, rank: int, beside: list[dict[str, Any]]
) -> None:
    """In a first stage of the student's own vectors it is the teacher's basis that lets more of them teach more."""
    svd = {"name": "svd", "rank": rank, "basis": "own", "clip": "own_norm", "stage": "both", "weight": 4.0}
    lines = [
        {"epoch": e, "loss": 1.0, "accuracy": 0.7, "energy_teacher": 0.2, "energy_student": 0.2} for e in range(1, 7)
    ]
    train = {"epochs": 6, "first_stage": 0.5, "first_stage_counts": True, "device": "cpu"}
    for seed in range(2):
        make_run(tmp_path, "alone", seed)
        make_run(tmp_path, "svd", seed, metrics=lines, loss=[*beside, svd] if beside else svd, train=train)
    found = [step.settings for step in next_steps.steps(context_of(collect([tmp_path])))]
    said = "loss.svd.basis=teacher" if beside else "loss.basis=teacher"
    assert found.count(said) == 1
    assert not any("rank" in settings for settings in found)


def test_what_learned_from_two_teachers(tmp_path: Path) -> None:
    """Two methods whose teachers have other settings, or were trained twice, and the seeds of one method."""
    data = {"name": "bags", "train_size": 1000}
    for seed in range(2):
        make_run(tmp_path, "alone", seed)
        for number, method in enumerate(("soft-target", "svd")):
            overrides = {"train": {"epochs": number + 1}}
            make_run(tmp_path / "other", method, seed, teacher={"recipe": "bags/teacher", "overrides": overrides})
            path = make_run(tmp_path / "twice", method, seed)
            (path / "data.json").write_text(json.dumps({"teacher": method}))
            finish_again(path)
            path = make_run(tmp_path / "seeds", "svd", seed, data={**data, "x": number})
            (path / "data.json").write_text(json.dumps({"teacher": f"{method} {seed if number else 0}"}))
            finish_again(path)
    said = " ".join(verdict.headline(context_of(collect([tmp_path / "other"]))))
    assert "not trained as soft targets was: teacher.overrides.train.epochs 2 against 1" in said
    said = " ".join(verdict.headline(context_of(collect([tmp_path / "twice"]))))
    assert "KD-SVD and soft targets learned from two trainings of the teacher." in said
    said = " ".join(verdict.headline(context_of(collect([tmp_path / "seeds"]))))
    assert said.count("The seeds of KD-SVD learned from several trainings of the teacher") == 1


def test_several_teachers_are_told_apart(tmp_path: Path) -> None:
    """Each has its settings in the table and its accuracy in the sentence."""
    for epochs in (6, 12):
        teacher = make_run(tmp_path, "teacher", epochs=epochs)
        digest = RunRecord(teacher).student_digest()
        for seed in range(2):
            overrides = {"recipe": "bags/teacher", "overrides": {"train": {"epochs": epochs}}}
            run = make_run(tmp_path, "svd", seed, teacher=overrides)
            (run / "data.json").write_text(json.dumps({"teacher": digest}))
            finish_again(run)
    page = contents(context_of(collect([tmp_path])))
    assert (
        "There are 2 teachers, of different settings. Teacher, 6 epochs: 90.00 %; teacher, 12 epochs"
        in page["headline"][-1]
    )
    labels = [row.label for _, rows in page["tables"] for row in rows if row.look is None]
    assert sorted(labels) == ["teacher, 12 epochs", "teacher, 6 epochs"]
