"""Runs on a real Ray of this machine: the same results, failures, deaths; and what is refused before any work."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from svdistill import recipes, sweep
from svdistill.atomic import lock
from svdistill.errors import DataError, OptionError, RecipeError
from svdistill.jobs import Run
from svdistill.sweep import Comparison, Observer, Outcome, Task
from svdistill.sweep.scheduler import run_tasks

ray = pytest.importorskip("ray")

from svdistill.sweep import ray as on_ray  # noqa: E402
from svdistill.sweep import ray_cluster, ray_folder  # noqa: E402
from svdistill.sweep.ray_cluster import Allotment, Node, allot  # noqa: E402

OWN = ["model.width=0.1", "data.image_size=16", "data.train_size=20", "train.batch_size=10"]
TINY = [*OWN, *(f"teacher.overrides.{setting}" for setting in OWN), "train.device=cpu"]
CPU = Node("a", "one", 8, 0)
GPU = Node("b", "two", 16, 4)


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    """A Ray of this machine alone, started as the program starts it, and ended afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        with ray_cluster.connected():
            yield
    assert not ray.is_initialized()


def a_task(runs: Path, *overrides: str) -> Task:
    """A very small student alone."""
    recipe = recipes.load("digits/student", [*OWN, "train.device=cpu", *overrides])
    return Task(str(runs / recipe.name / recipes.identity(recipe)), recipe)


def compare(runs: Path, *, on: str) -> Comparison:
    """A teacher, a student, and one that can only fail."""
    settings = [*TINY, "teacher.overrides.train.epochs=1", "train.epochs=3", "optimizer.lr=[0.05,1e9]"]
    return sweep.compare("digits/svd", overrides=settings, methods=["svd"], seeds=[0], runs=runs, on=on, jobs=2)


@pytest.mark.usefixtures("_ray")
def test_the_same_as_on_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teacher first, what fails stops no other, every number is that of local processes; nothing else is left."""
    monkeypatch.chdir(tmp_path)
    here, there = compare(Path("here"), on="local"), compare(Path("there"), on="ray")
    assert [member.title for member in there.members] == [member.title for member in here.members]
    assert [member.state for member in there.members] == ["finished", "finished", "failed"]
    for ours, theirs in zip(there.members, here.members, strict=True):
        assert ours.state == theirs.state
        if ours.summary is None or theirs.summary is None:
            assert str(ours.error).startswith(str(theirs.error))
            assert str(ours.error).endswith(f"(on node {socket.gethostname()})")
        else:
            assert {**ours.summary, "seconds": 0} == {**theirs.summary, "seconds": 0}
            assert [line["loss"] for line in ours.run.metrics] == [line["loss"] for line in theirs.run.metrics]
    assert [path.name for path in Path("there").iterdir()] == ["digits"]


@pytest.mark.usefixtures("_ray")
def test_a_worker_that_dies_is_a_failed_run(tmp_path: Path) -> None:
    """The run is reported as failed, and the next one is trained."""

    def dies(*_: Any) -> Iterator[tuple[str, ...]]:
        yield ("arrived",)
        os.kill(os.getpid(), signal.SIGKILL)

    class Diary(Observer):
        def __init__(self) -> None:
            self.outcomes: dict[str, Outcome] = {}

        def ended(self, task: Task, outcome: Outcome) -> None:
            """Note it."""
            self.outcomes[task.key] = outcome

    first, second = a_task(tmp_path, "train.epochs=1"), a_task(tmp_path, "train.epochs=1", "seed=1")
    diary = Diary()
    with on_ray.ray_pool(tmp_path, [first.recipe], jobs=1) as workers:
        supervise, workers._supervise = workers._supervise, ray.remote(dies)
        run_tasks([first], workers, observer=diary)
        workers._supervise = supervise
        run_tasks([second], workers, observer=diary)
    assert "its worker or node died (WorkerCrashedError" in str(diary.outcomes[first.key].error)
    assert diary.outcomes[second.key] == Outcome()
    assert Run(second.key).finished


@pytest.mark.usefixtures("_ray")
def test_what_is_running_ends_with_the_block(tmp_path: Path) -> None:
    """Where the program is interrupted, the run's lock is soon free and its folder can be resumed."""
    task = a_task(tmp_path, "train.epochs=2000")
    with pytest.raises(KeyboardInterrupt), on_ray.ray_pool(tmp_path, [task.recipe]) as workers:  # noqa: PT012
        workers.submit(task)
        while not any(message[0] == "measured" for _, message in workers.messages(1)):
            pass
        raise KeyboardInterrupt
    with Run(task.key).locked(waiting=lambda: None):
        assert 1 <= len(Run(task.key).metrics) < 2000


@pytest.mark.usefixtures("_ray")
def test_a_node_that_does_not_see_the_runs(tmp_path: Path) -> None:
    """It is refused by one line, before any work."""
    with pytest.raises(RecipeError, match=r"node .* does not see the folder of runs, .*; choose one") as caught:
        ray_folder.check_views(ray_cluster.living_nodes(), tmp_path / "elsewhere" / "mark")
    assert "\n" not in str(caught.value)


def test_a_run_whose_process_is_killed_on_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its supervisor reports how it died, and where; no GPU was within its reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    task = a_task(tmp_path, "train.epochs=2000")
    with ray_folder.marked(tmp_path) as mark:
        said = []
        for message in on_ray._supervise(task, tmp_path, mark, str(tmp_path), 1, False):
            said.append(message)
            if message[0] == "started":
                (worker,) = multiprocessing.active_children()
                assert worker.pid is not None
                os.kill(worker.pid, signal.SIGKILL)
    assert said[0] == ("arrived",)
    assert said[-1][0] == "failed"
    assert str(said[-1][1]).startswith("its process was killed (SIGKILL")
    assert str(said[-1][1]).endswith(f"(on node {socket.gethostname()})")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_node_without_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error before the first step reminds of what every node needs."""
    monkeypatch.chdir(tmp_path)
    task = a_task(tmp_path)
    Run(task.key).path.mkdir(parents=True)
    (Run(task.key).path / "data.json").write_text("{")
    with ray_folder.marked(tmp_path) as mark:
        *_, last = on_ray._supervise(task, tmp_path, mark, str(tmp_path), 1, False)
    assert "data.json is damaged" in str(last[1])
    assert "which needs the data and teachers under the same paths" in str(last[1])


@pytest.mark.parametrize(
    ("nodes", "gpus", "wanted", "expected"),
    [
        ([CPU], False, None, Allotment(8, 1, False)),
        ([CPU], False, 2, Allotment(2, 4, False)),
        ([CPU], False, 3, Allotment(3, 2, False)),
        ([CPU], False, 99, Allotment(8, 1, False)),
        ([CPU, Node("c", "three", 4, 0)], False, 2, Allotment(2, 4, False)),
        ([CPU, GPU], True, None, Allotment(4, 4, True)),
        ([CPU, GPU], True, 3, Allotment(3, 4, True)),
        ([CPU, GPU], False, None, Allotment(24, 1, False)),
        ([CPU], True, None, Allotment(8, 1, False)),
        ([Node("d", "four", 2, 4)], True, None, Allotment(4, 0, True)),
    ],
)
def test_allotment(nodes: Sequence[Node], gpus: bool, wanted: int | None, expected: Allotment) -> None:
    """One GPU each, or the cores divided; a run has room on one node."""
    assert allot(nodes, gpus=gpus, jobs=wanted) == expected


def test_nothing_to_allot() -> None:
    """No job, and a cluster that lends nothing, are refused."""
    with pytest.raises(OptionError, match="jobs: expected at least 1, got 0"):
        allot([CPU], gpus=False, jobs=0)
    with pytest.raises(RecipeError, match="lend no CPUs"):
        allot([Node("e", "head", 0, 0)], gpus=False, jobs=None)


def test_devices_that_ray_cannot_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A numbered GPU, and a GPU of a cluster without, are refused; nothing is written."""
    for device, match in (("cuda:1", "write 'cuda'"), ("cuda", "no node of the Ray cluster has a GPU")):
        recipe = recipes.load("digits/student", [f"train.device={device}"])
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(on_ray, "living_nodes", lambda: [CPU])
        with pytest.raises(RecipeError, match=match), on_ray.ray_pool(tmp_path / "runs", [recipe]):
            pass
    assert list(tmp_path.iterdir()) == []


def test_which_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RAY_ADDRESS, or that of this machine; one that is gone is noticed at once."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_cluster.find_address() is None
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(address + "\n")
        assert ray_cluster.find_address() == address
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert ray_cluster.find_address() == address
        monkeypatch.setenv("RAY_ADDRESS", "local")
        assert ray_cluster.find_address() is None
    monkeypatch.delenv("RAY_ADDRESS")
    assert ray_cluster.find_address() is None
    for given, match in ((address, "no Ray cluster answers"), ("auto", "belongs to no"), ("ray://x:1", "on a node")):
        monkeypatch.setenv("RAY_ADDRESS", given)
        with pytest.raises(RecipeError, match=match):
            ray_cluster.find_address()


def test_the_mark(tmp_path: Path) -> None:
    """It is locked while it is there and leaves nothing; those of killed programs are removed, those in use are not."""
    runs = tmp_path / "runs"
    with ray_folder.marked(runs) as mark:
        assert ray_folder.look(mark).problem is None
        (runs / ".seen-by-all-old").touch()
        with ray_folder.marked(runs):
            assert mark.exists()
            assert not (runs / ".seen-by-all-old").exists()
        assert list(runs.iterdir()) == [mark]
    assert not runs.exists()
    (tmp_path / "file").touch()
    with (
        pytest.raises(DataError, match="cannot write to the folder of runs"),
        ray_folder.marked(tmp_path / "file" / "x"),
    ):
        pass


def test_what_a_node_may_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another folder of the same name, and one whose locks do not reach here."""
    monkeypatch.setattr(ray_folder, "APPEAR", 0.0)
    assert "does not see the folder of runs" in str(ray_folder.look(tmp_path / "mark").problem)
    (tmp_path / "mark").touch()
    assert "does not see the locks of other nodes" in str(ray_folder.look(tmp_path / "mark").problem)
    with (tmp_path / "mark").open("a") as file:
        assert lock(file, wait=False)
        assert ray_folder.look(tmp_path / "mark").problem is None
