"""Commands that use one folder of runs at the same time: each ends well or in one line, and all results are right."""

from pathlib import Path

from tests.kill.harness import start

from svdistill.records import RunRecord

OWN = ("model.width=0.1", "data.image_size=16", "data.train_size=20", "train.batch_size=10", "train.epochs=1")
TINY = ("digits/svd", *OWN, *(f"teacher.overrides.{setting}" for setting in OWN), "train.device=cpu")
COMPARE = ("compare", *TINY, "--methods", "alone,svd", "--seeds", "2")
COMMANDS = {
    "train": ("train", *TINY, "--runs", "{runs}"),
    "train the same": ("train", *TINY, "--runs", "{runs}"),
    "train another seed": ("train", *TINY, "seed=1", "--runs", "{runs}"),
    "cache": ("cache", *TINY, "teacher.views=2", "--runs", "{runs}"),
    "cache the same": ("cache", *TINY, "teacher.views=2", "--runs", "{runs}"),
    "compare": (*COMPARE, "--runs", "{runs}", "--output", "{runs}/../tables"),
    "report": ("report", "{runs}", "--output", "{runs}/../first.html"),
}
LATER = {
    "train again": ("train", *TINY, "--fresh", "--runs", "{runs}"),
    "cache again": ("cache", *TINY, "teacher.views=2", "--fresh", "--runs", "{runs}"),
    "train": ("train", *TINY, "seed=1", "--runs", "{runs}"),
    "report": ("report", "{runs}", "--output", "{runs}/../second.html"),
    "report the comparison": ("report", "{runs}/../tables/comparison.json", "--output", "{runs}/../third.html"),
}
# Another process has what it needs, or there is nothing yet to report on.
MAY_FAIL = ("train the same", "train", "train again", "report", "report the comparison")


def run_at_once(commands: dict[str, tuple[str, ...]], runs: Path) -> None:
    """Start all, and look at how each ended."""
    begun = {}
    for name, arguments in commands.items():
        log = runs.with_name(f"{name}.log")
        begun[log] = start([part.format(runs=runs) for part in arguments], log)
    for log, process in begun.items():
        process.join(200)
        name, said = log.stem, log.read_text()
        assert process.exitcode in ((0, 2) if name in MAY_FAIL else (0,)), said
        assert "Traceback" not in said
        assert process.exitcode == 0 or "error: " in said.splitlines()[-1]


def test_all_commands_at_once(tmp_path: Path) -> None:
    """Two trainings and two caches of the same, a comparison and reports; then --fresh among those that read."""
    runs = tmp_path / "runs"
    run_at_once(COMMANDS, runs)
    students = {record.path: record.student.read_bytes() for record in RunRecord.find(runs)}
    assert len(students) == 5  # the teacher, and two methods on two seeds
    assert all(record.finished and record.damage() == {} for record in RunRecord.find(runs))
    for log in tmp_path.glob("*.log"):
        log.unlink()
    run_at_once(LATER, runs)
    assert {record.path: record.student.read_bytes() for record in RunRecord.find(runs)} == students
