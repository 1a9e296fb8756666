"""``svdistill watch``: a server process of its own, beside a training that writes."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.shared_runs import ALONE
from tests.processes import hear_interrupts, rest_of

from svdistill import jobs
from svdistill.cli.app import run
from svdistill.report import server
from svdistill.training import NoProgress


@contextmanager
def watching(*arguments: str) -> Iterator[int]:
    """Start the command and yield its port; Ctrl-C must end it with status 0, without a traceback."""
    command = [sys.executable, "-m", "svdistill", "watch", *arguments]
    environment = {**os.environ, "COLUMNS": "200", "BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=hear_interrupts
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
            assert found is not None, line
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGINT)
            try:
                told, errors = rest_of(process)
            finally:
                process.kill()
    assert process.returncode == 0, errors
    assert errors.split("\n")[-2:] == ["ended", ""]
    assert ("there is no browser here" in told) == ("--open" in arguments)


def ask(port: int, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, str, Mapping[str, str]]:
    """Ask the server, and return status, page and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    return answer.status, page, dict(answer.getheaders())


class Asks(NoProgress):
    """Asks for the page after each epoch."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.pages: list[str] = []

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Ask."""
        self.pages.append(ask(self.port)[1])


class Callbacks(jobs.NoCallbacks):
    """Hands them out."""

    def __init__(self, port: int) -> None:
        self.asks = Asks(port)

    def training(self, recipe: Any, run: Any) -> Asks:
        """Return the one that asks."""
        return self.asks


def test_beside_a_training(tmp_path: Path) -> None:
    """The page shows the run while it trains; names, methods and paths that are not its own are refused."""
    runs = tmp_path / "runs"
    with watching(str(runs), "--open") as port:
        status, page, headers = ask(port)
        assert (status, "is not there yet" in page) == (200, True)
        assert "script-src 'sha256-" in headers["Content-Security-Policy"]
        assert ask(port, If_None_Match=headers["ETag"])[:2] == (304, "")
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "a@127.0.0.1", ""):
            assert ask(port, Host=name)[0] == 403
        for name in (f"localhost:{port}", "127.0.0.1", "LOCALHOST:9"):
            assert ask(port, Host=name)[0] == 200
        assert ask(port, "/../../etc/passwd")[0] == 404
        assert ask(port, "/?x")[0] == 404
        assert ask(port, method="POST")[0] == 501
        status, page, headers = ask(port, method="HEAD")
        assert (status, page) == (200, "")
        assert int(headers["Content-Length"]) > 1000
        callbacks = Callbacks(port)
        # The page is made again after some seconds only, however many epochs a second there are.
        jobs.train("digits/student", overrides=[*ALONE, "train.epochs=2"], runs=runs, callbacks=callbacks)
        before = sorted(path.name for path in runs.rglob("*"))
    with watching(str(runs)) as port:
        jobs.train("digits/student", overrides=[*ALONE, "seed=7"], runs=runs, callbacks=(second := Callbacks(port)))
    assert len(callbacks.asks.pages) == 2
    assert "1 of 2 runs has finished, 1 training now" in second.asks.pages[0]
    assert "digits/student seed 7" in second.asks.pages[0]
    assert set(before) <= {path.name for path in runs.rglob("*")}


def test_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that was asked for and is taken is one line that names a free one; without a wish the next is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["watch", str(tmp_path), "--port", str(port)]) == 2
        told = capsys.readouterr().err
        assert re.fullmatch(rf"error: --port: cannot listen on {port} \(.*\); \d+ is free\n", told)
        monkeypatch.setattr(server, "PORT", port)
        with server.open_server([tmp_path]) as opened:
            assert opened.server_address[1] != port
            assert opened.server_address[0] == "127.0.0.1"
