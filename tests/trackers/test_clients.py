"""Tests of the trackers' own clients: what they wrote is read back. A client that is not installed is skipped."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.request

import pytest

from svdistill.errors import SvdistillWarning
from tests.trackers.tiny import pull_the_plug, title, train

FILES = {"student.safetensors", "recipe.yaml", "summary.json"}


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Keep what the clients write, and would read of whoever runs the tests, in the test's folder."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    for name in ("HOME", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "NETRC", "TRACKIO_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "HOME").mkdir()
    monkeypatch.chdir(tmp_path)


def train_twice(runs, tracker):
    """Train a run that is interrupted, and resume it."""
    with pytest.raises(KeyboardInterrupt):
        train(runs, [tracker], after=pull_the_plug)
    return train(runs, [tracker])


def accuracies(run):
    """Return epoch and accuracy of each epoch."""
    return [(line["epoch"], pytest.approx(line["accuracy"])) for line in run.metrics]


def test_tensorboard(tmp_path):
    """One scalar a figure and epoch, though the run was interrupted, and the recipe as a text."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train_twice(tmp_path / "runs", "tensorboard")
    events = accumulator.EventAccumulator(str(run.record.tensorboard)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("accuracy")] == accuracies(run)
    assert events.Scalars("summary/accuracy")[0].value == pytest.approx(run.summary["accuracy"])
    assert "recipe/text_summary" in events.Tags()["tensors"]


def check_mlflow(client, run):
    """Compare what MLflow has with the run."""
    experiment = client.get_experiment_by_name("svdistill/digits")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == (title(run), "FINISHED")
    assert found.data.params["train.epochs"] == "3"
    assert found.data.tags["torch"] == run.record.environment()["torch"]
    history = client.get_metric_history(found.info.run_id, "accuracy")
    assert sorted((point.step, point.value) for point in history) == accuracies(run)
    assert found.data.metrics["summary.accuracy"] == pytest.approx(run.summary["accuracy"])
    assert {file.path for file in client.list_artifacts(found.info.run_id)} >= FILES


def test_mlflow_without_server(tmp_path):
    """A file where the program was called."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    run = train_twice(tmp_path / "runs", "mlflow")
    assert (tmp_path / "mlflow.db").is_file()
    check_mlflow(mlflow.MlflowClient(), run)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Start MLflow's server, a process of its own, and return that."""
    pytest.importorskip("mlflow")
    pytest.importorskip("flask")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path)]
    with (tmp_path / "server.log").open("w") as log:
        # Its jobs are of language models, and need libraries that nothing else here does.
        alone = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=alone, start_new_session=True)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
        yield process
    finally:
        kill(process)


def kill(server):
    """End the server and its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, 9)
    server.wait()


def test_mlflow_with_server(server, tmp_path):
    """The run is there, by the client; and the program wrote no file of its own."""
    import mlflow

    run = train_twice(tmp_path / "runs", "mlflow")
    check_mlflow(mlflow.MlflowClient(), run)
    assert not (tmp_path / "mlflow.db").exists()


def test_mlflow_loses_its_server(server, tmp_path):
    """The run ends with one warning, soon, and the same to the last bit."""
    with pytest.warns(SvdistillWarning, match=r"^mlflow: .*; the run is no longer logged") as caught:
        run = train(tmp_path / "a", ["mlflow"], after=lambda epoch: kill(server) if epoch == 1 else None)
    assert len([one for one in caught if issubclass(one.category, SvdistillWarning)]) == 1
    assert run.student_file.read_bytes() == train(tmp_path / "b", []).student_file.read_bytes()


def test_mlflow_out_of_reach(tmp_path, monkeypatch, capfd):
    """One warning, and not a word of the libraries'."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.warns(SvdistillWarning, match=r"^mlflow: .*127\.0\.0\.1.*; the run is no longer logged"):
        assert train(tmp_path / "runs", ["mlflow"]).finished
    assert capfd.readouterr() == ("", "")


def test_wandb_offline(tmp_path, capfd):
    """Without a login it writes files, asks for nothing and says nothing; both parts are of one run."""
    pytest.importorskip("wandb")
    run = train_twice(tmp_path / "runs", "wandb")
    first, second = (list(records(file)) for file in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb")))
    (begun,) = (record.run for record in first if record.HasField("run"))
    (resumed,) = (record.run for record in second if record.HasField("run"))
    assert begun.run_id == resumed.run_id
    assert (begun.project, begun.run_group, begun.display_name) == ("svdistill", "digits", title(run))
    assert {item.key: item.value_json for item in begun.config.update}["train.epochs"] == "3"
    points = [record.history for record in (*first, *second) if record.HasField("history")]
    assert [(point.step.num, figure(point, "accuracy")) for point in points] == accuracies(run)
    (handed_in,) = (record.artifact for record in second if record.HasField("artifact"))
    assert {entry.path for entry in handed_in.manifest.contents} >= FILES
    assert capfd.readouterr() == ("", "")


def records(file):
    """Yield what a file of wandb's holds: LevelDB's log format, in blocks of 32 KiB, behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def figure(history, name):
    """Return a figure of an epoch."""
    return next(float(item.value_json) for item in history.item if name in (item.key, *item.nested_key))


def test_trackio(tmp_path, capfd):
    """In its own folder, by its own reader; it says nothing either."""
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    run = train_twice(tmp_path / "runs", "trackio")
    (found,) = trackio.Api().runs("svdistill")
    assert (found.name, found.config["train.epochs"]) == (title(run), 3)
    logs = SQLiteStorage.get_logs("svdistill", found.name, run_id=found.id)
    assert [(line["step"], line["accuracy"]) for line in logs if "accuracy" in line] == accuracies(run)
    assert logs[-1]["summary/accuracy"] == pytest.approx(run.summary["accuracy"])
    assert capfd.readouterr() == ("", "")
