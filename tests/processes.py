"""Starts a program in several processes, as torchrun does on one machine, without the seconds that torchrun takes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import svdistill

SOURCE = str(Path(svdistill.__file__).parents[1])


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(*program: object, world: int = 2, **options: Any) -> list[subprocess.Popen[str]]:
    """Start Python programs that find each other; returns the processes, by rank.

    Args:
        program: what follows ``python``.
        world: how many.
        options: of subprocess.Popen.
    """
    shared = {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": SOURCE,
    }
    return [
        subprocess.Popen(
            [sys.executable, *map(str, program)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            **options,
        )
        for rank in range(world)
    ]


def run(*program: object, world: int = 2, timeout: float = 120) -> list[tuple[int, str, str]]:
    """Run programs to their end; returns status, output and error output of each."""
    children = start(*program, world=world, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        ends = [child.communicate(timeout=timeout) for child in children]
    finally:
        for child in children:
            child.kill()
    return [(child.returncode, *end) for child, end in zip(children, ends, strict=True)]


def rest_of(process: subprocess.Popen[str], timeout: float = 60) -> tuple[str, str]:
    """Await the end of a process whose output was read in part; returns what is left of output and error output.

    ``communicate`` would lose the lines that came with the one that ``readline`` returned. Both must fit their pipes.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    process.wait(timeout)
    return process.stdout.read(), process.stderr.read()


def hear_interrupts() -> None:
    """Undo that a shell's background jobs, and what they start, ignore Ctrl-C; called in a child before it begins."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
