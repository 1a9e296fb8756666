"""The report page as text."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.runs import CLASSES, finish_again, make_comparison, make_diagnostics, make_run

from svdistill.errors import DataError
from svdistill.report import page
from svdistill.report.collect import collect

VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Collects ids, links and text, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Note ids and links."""
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[name] for name in ("href", "src", "xlink:href") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        """Note ids and links."""
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Check the order."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.text.append(data)


def read(html: str) -> Reader:
    """Parse a page, and check what holds for each: self-contained, closed, ids once, links that lead somewhere."""
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    for link in reader.links:
        assert link.startswith("data:") or link[1:] in reader.ids
    assert "<script" not in html
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", html)
    return reader


def sections(html: str) -> list[str]:
    """Return the ids of the page's sections."""
    return re.findall(r'<section id="([^"]+)"', html)


def words(html: str) -> str:
    """Return what is written on the page, in one line."""
    return " ".join("".join(read(html).text).split())


def test_everything(tmp_path: Path) -> None:
    """Methods, seeds, two sizes and two ranks: every section is there, and numbers are those of the runs."""
    make_comparison(tmp_path, seeds=2)
    for method in ("alone", "svd", "svd-k2"):
        for seed in (0, 1):
            make_run(tmp_path, method, seed, size=5000)
    html = page.render(collect([tmp_path]), made="today")
    drawn = ["gain", "training", "cost", "settings", "health", "spectra", "dfv", "confusion"]
    assert sections(html) == ["results", "regimes", "why", "next", *drawn, "runs"]
    text = words(html)
    assert "Distillation on bags" in text
    assert "and 1 of a teacher · 2 seeds" in text
    assert "1,000 labelled images: KD-SVD, rank 2 won, at 75.50 ± 0.71 %: +3.00 points" in text
    assert "The teacher reaches 90.00 %; the student has 20 % of its FLOPs." in text
    assert "5,000 labelled images" in text
    assert "Made by svdistill" in text
    for title in ("Gain against labelled images", "Gain against rank", "Transfer / main gradient", "Tap 3: block3"):
        assert title in text


def test_a_teacher_for_each_seed(tmp_path: Path) -> None:
    """They stand in one row, and the teacher reaches their mean; one of another share of the images is apart."""
    for seed, accuracy in enumerate((0.8, 0.9)):
        make_run(tmp_path, "teacher", seed, summary={"accuracy": accuracy})
        make_run(tmp_path, "svd", seed)
        make_run(tmp_path, "alone", seed)
    make_run(tmp_path, "teacher", 0, summary={"accuracy": 0.1}, data={"name": "bags", "root": None, "train_size": 7})
    found = collect([tmp_path])
    teachers = found.teachers_of(found.regimes[0])
    assert [[run.summary["accuracy"] for run in group.runs] for group in teachers] == [[0.8, 0.9], [0.1]]
    text = words(page.render(found))
    assert (
        "There are 2 teachers, of different settings. Teacher, all labelled images: 85.00 ± 7.07 %; teacher, 7" in text
    )
    assert "teacher, all labelled images 2 seeds 85.00 ± 7.07 %" in text
    assert "The student has 20 % of their FLOPs." in text
    assert "4 runs of 2 methods and 3 of teachers · 2 seeds" in text


def test_teachers_of_other_costs(tmp_path: Path) -> None:
    """The student's part of their FLOPs is told from the least to the most."""
    make_run(tmp_path, "teacher", summary={"flops": 8_000_000}, model={"name": "big", "width": 0.5})
    make_run(tmp_path, "teacher")
    make_run(tmp_path, "svd")
    assert "The student has 20 % to 75 % of their FLOPs." in words(page.render(collect([tmp_path])))


def test_a_teacher_of_other_classes(tmp_path: Path) -> None:
    """Its accuracy is of other images: the page says so, draws it beside no student's and advises nothing from it."""
    make_run(tmp_path, "teacher", summary={"accuracy": 0.2}, data={"name": "shoes", "root": None})
    for method in ("alone", "svd"):
        make_run(tmp_path, method)
    html = page.render(collect([tmp_path]))
    text = words(html)
    assert "The teacher reaches 20.00 % on other images or classes; the student has 20 % of its FLOPs." in text
    assert "teacher, on other images or classes 1 seed 20.00 %" in text
    assert "the teacher is no better than its student" not in text
    assert "cost" not in sections(html)


def test_one_plain_run(tmp_path: Path) -> None:
    """A student alone has curves, spectra and a confusion matrix, and nothing that would need a second method."""
    run = make_run(tmp_path, "alone")
    (run / "insight.npz").unlink()
    np.savez(run / "insight.npz", **make_diagnostics(helped=False))
    finish_again(run)
    html = page.render(collect([run]))
    assert sections(html) == ["results", "next", "training", "spectra", "confusion", "runs"]
    assert "Student alone reaches 72.00 %; there is nothing to compare it with." in words(html)


def test_older_runs(tmp_path: Path) -> None:
    """Without a file of diagnostics there are fewer sections."""
    make_run(tmp_path, "alone", diagnostics=False)
    make_run(tmp_path, "svd", diagnostics=False)
    html = page.render(collect([tmp_path]))
    assert sections(html) == ["results", "why", "next", "gain", "training", "health", "runs"]
    assert "on one seed: not seeds enough to tell it from chance" in words(html)


def test_no_student_alone(tmp_path: Path) -> None:
    """Without a baseline there is no gain; what lies along a setting is then the accuracy."""
    for size in (1000, 5000):
        make_run(tmp_path, "svd", size=size)
    html = page.render(collect([tmp_path]))
    assert "gain" not in sections(html)
    assert "Accuracy against labelled images" in words(html)


def test_sparse_metrics(tmp_path: Path) -> None:
    """Epochs without an accuracy, figures that were not finite and runs of unequal length are drawn where they are."""
    lines: list[dict[str, Any]] = [
        {"epoch": 1, "loss": 2.0, "ratio": None},
        {"epoch": 2, "loss": 1.0, "ratio": 3.0, "accuracy": 0.5, "clipped": 0.0, "dropped": 3, "set_aside": 0},
        {"epoch": 3, "loss": 0.0, "ratio": 2.0, "accuracy": 0.7, "clipped": 0.0, "dropped": 0, "set_aside": 0},
    ]
    make_run(tmp_path, "svd", 0, metrics=lines)
    make_run(tmp_path, "svd", 1, metrics=lines[:2])
    text = words(page.render(collect([tmp_path])))
    assert "Gradients dropped" in text
    assert "Images set aside" not in text
    assert "Main loss" in text


def test_unequal_diagnostics(tmp_path: Path) -> None:
    """Other widths, other numbers of taps, other images and degenerate maps leave figures out, not the page."""
    make_run(tmp_path, "teacher")
    make_run(tmp_path, "svd")
    odd = make_diagnostics()
    odd["student_vectors_1"] = odd["student_vectors_1"][:, :5]
    odd["student_spectrum"][:] = np.nan
    odd["alignment"][:] = np.nan
    for method, arrays in (
        ("svd-k2", odd),
        ("alone", {**make_diagnostics(3, helped=False), "images": np.zeros((1, 3, 4, 4), np.uint8)}),
        ("soft-target", {name: array for name, array in odd.items() if name in ("classes", "confusion")}),
        ("svd+soft-target", {**odd, "student_spectrum": odd["student_spectrum"][:2]}),
    ):
        run = make_run(tmp_path, method)
        np.savez(run / "insight.npz", **arrays)
        finish_again(run)
    html = page.render(collect([tmp_path]))
    assert "other width" in words(html)
    assert "nan" not in words(html)


def test_single_tap(tmp_path: Path) -> None:
    """One tap has a spectrum but relates to no other."""
    run = make_run(tmp_path, "svd")
    arrays = make_diagnostics()
    one = {k: v[:1] for k, v in arrays.items() if k.endswith(("taps", "spectrum")) or k == "alignment"}
    kept = {
        k: v for k, v in arrays.items() if k.endswith("vectors_0") or k in ("images", "labels", "classes", "confusion")
    }
    np.savez(run / "insight.npz", **one, **kept)
    finish_again(run)
    found = sections(page.render(collect([run])))
    assert "spectra" in found
    assert "dfv" not in found


def test_names_are_text(tmp_path: Path) -> None:
    """What a user wrote into a recipe is written, not interpreted."""
    make_run(tmp_path, "alone", data={"name": "<b>bags</b> & more", "train_size": 1000}, description="</pre><script>")
    html = page.render(collect([tmp_path]))
    read(html)
    assert "<b>bags" not in html
    assert "&lt;b&gt;bags" in html


def test_tap_and_class_names_are_text(tmp_path: Path) -> None:
    """So are the names in a file of diagnostics."""
    run = make_run(tmp_path, "svd")
    arrays = make_diagnostics() | {
        "classes": np.array([f'<i>{name}"' for name in CLASSES]),
        "student_taps": np.array(['<u>"a', "b&c", "d"]),
    }
    np.savez(run / "insight.npz", **arrays)
    finish_again(run)
    html = page.render(collect([run]))
    read(html)
    assert "<i>" not in html.replace("<i> ", "")
    assert "<u>" not in html


def test_adapters_are_told(tmp_path: Path) -> None:
    """A student whose taps were lifted says so."""
    make_run(tmp_path, "svd", summary={"adapters": [{"tap": "block1", "width": 4, "teacher_width": 6}]})
    assert "block1 4 → 6" in words(page.render(collect([tmp_path])))


def test_confounded_settings_are_told(tmp_path: Path) -> None:
    """A figure over one setting says where another changes along with it."""
    for width, epochs in ((0.5, 3), (1.0, 6)):
        for method in ("alone", "svd"):
            make_run(tmp_path, method, model={"name": "small", "width": width}, epochs=epochs)
    text = words(page.render(collect([tmp_path])))
    assert "Width 0.5, 3 epochs" in text
    assert "Gain against width of the student" in text
    assert "Not the only difference between these runs: train.epochs." in text


def test_many_regimes(tmp_path: Path) -> None:
    """With very many regimes the curves are those of one, and the page says which."""
    for size in range(100, 900, 100):
        make_run(tmp_path, "svd", size=size, diagnostics=False)
    html = page.render(collect([tmp_path]))
    assert html.count("Test accuracy while training") == 2  # wide and narrow
    assert len(re.findall("<caption>", html.partition('id="regimes"')[0])) == 8


def test_written_in_one_piece(tmp_path: Path) -> None:
    """The file is made with its folder; what was left out is told."""
    make_run(tmp_path / "runs", "alone")
    unfinished = make_run(tmp_path / "runs", "svd", finished=False)
    written = page.write([tmp_path / "runs"], tmp_path / "new" / "report.html")
    assert written.runs == 1
    assert written.left_out == [(str(unfinished), "has not finished")]
    assert "has not finished" in words(written.path.read_text(encoding="utf-8"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_not_writable(tmp_path: Path) -> None:
    """A folder, or a file where a folder should be, is one line."""
    run = make_run(tmp_path, "alone")
    with pytest.raises(DataError, match="it is a folder"):
        page.write([run], tmp_path)
    with pytest.raises(DataError, match="cannot write the report"):
        page.write([run], run / "recipe.yaml" / "report.html")
