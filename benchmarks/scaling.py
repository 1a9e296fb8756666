"""One training step on one global batch by one process and by two, and what the all-reduce between them takes.

The three settings take turns: their processes are started once and wait for commands. They are connected as torchrun
connects them, by gloo, on this machine; a GPU takes no part.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import torch
import torch.distributed as dist
from rich.console import Console
from rich.markdown import Markdown

from benchmarks import table
from benchmarks.measure import machine, rate, ratio, side_by_side, spread, write
from svdistill import Distiller
from svdistill.losses import SVDLoss
from svdistill.nets import create, default_taps
from svdistill.training import launch, leave, make_optimizer, step

BATCH = 128
WIDTHS = (0.5, 1.0)
SETTINGS = {  # name: processes, threads of each
    "one process, one thread": (1, 1),
    "one process, two threads": (1, 2),
    "two processes, one thread each": (2, 1),
}
ONE, THREADS, PROCESSES = SETTINGS
# A worker's answers begin with this, in case anything else is printed.
MARK = "=> "
WORKER = "worker"


@dataclass(frozen=True)
class WorkerPool:
    """The processes of one setting, which carry out commands together."""

    workers: tuple[subprocess.Popen[str], ...]

    def tell(self, word: str) -> Any:
        """Send all the same command, wait until each is done, and return the first one's answer.

        Raises:
            RuntimeError: one of them has ended.
        """
        for worker in self.workers:
            _file(worker.stdin).write(word + "\n")
            _file(worker.stdin).flush()
        answers = [_answer(worker) for worker in self.workers]
        return answers[0]


@contextmanager
def open_pool(processes: int, threads: int, width: float) -> Iterator[WorkerPool]:
    """Start the processes of one setting, and end them afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = []
    try:
        for rank in range(processes):
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            if processes > 1:
                environment |= {
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "WORLD_SIZE": str(processes),
                    "RANK": str(rank),
                    "LOCAL_WORLD_SIZE": str(processes),
                    "LOCAL_RANK": str(rank),
                    "TORCHELASTIC_RUN_ID": "benchmark",
                }
            command = [sys.executable, "-m", "benchmarks.scaling", WORKER, str(width)]
            workers.append(
                subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
                )
            )
        yield WorkerPool(tuple(workers))
    finally:
        for worker in workers:
            _file(worker.stdin).close()
        for worker in workers:
            try:
                worker.wait(timeout=20)
            except subprocess.TimeoutExpired:
                worker.kill()


def work(width: float) -> None:
    """Carry out, in one of the processes, commands from standard input, and answer on standard output."""
    engine = launch(device="cpu", seed=0)
    if engine.world_size != int(os.environ.get("WORLD_SIZE", "1")):
        raise RuntimeError(f"{engine.world_size} process found, {os.environ['WORLD_SIZE']} were started")
    student = create("vgg-student", num_classes=100, width=width)
    teacher = create("vgg-teacher", num_classes=100, width=width)
    taps = default_taps("vgg-student"), default_taps("vgg-teacher")
    distiller = Distiller(
        student, teacher, loss=SVDLoss(reduction="sum"), student_taps=taps[0], teacher_taps=taps[1]
    ).train()
    optimizer = make_optimizer("sgd", student, lr=1e-4, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    shard = slice(engine.global_rank, None, engine.world_size)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator)[shard].clone()
    labels = torch.randint(0, 100, (BATCH,), generator=generator)[shard].clone()
    before = _weights(student)
    both = torch.zeros(2 * before.numel())
    for line in sys.stdin:
        answer: Any = None
        if line == "step\n":
            step(engine, distiller, optimizer, images, labels, epoch=0)
        elif line == "reduce\n":
            start = time.perf_counter()
            dist.all_reduce(both)
            answer = time.perf_counter() - start
        elif line.startswith("learned "):
            if engine.global_rank == 0:
                torch.save(_weights(student) - before, line.removeprefix("learned ").strip())
            answer = {"threads": torch.get_num_threads(), "numbers": both.numel()}
        print(MARK + json.dumps(answer), flush=True)
    leave()


def measure(width: float, *, rounds: int = 9, reductions: int = 20) -> dict[str, Any]:
    """Time the three settings in turn at one width of the VGG pair, then the all-reduce alone."""
    with (
        TemporaryDirectory() as folder,
        open_pool(*SETTINGS[ONE], width) as one,
        open_pool(*SETTINGS[THREADS], width) as threads,
        open_pool(*SETTINGS[PROCESSES], width) as processes,
    ):
        pools = {ONE: one, THREADS: threads, PROCESSES: processes}
        times = side_by_side(
            {name: partial(pool.tell, "step") for name, pool in pools.items()}, rounds=rounds, title=f"width {width:g}"
        )
        described = {name: pool.tell(f"learned {Path(folder) / name}") for name, pool in pools.items()}
        learned = {name: torch.load(Path(folder) / name) for name in pools}
        processes.tell("reduce")
        reduced = [processes.tell("reduce") for _ in range(reductions)]
    for name, (_, expected) in SETTINGS.items():
        if described[name]["threads"] != expected:
            raise RuntimeError(f"{name}: {described[name]['threads']} threads were used")
    return {
        "width": width,
        **{name: rate(seconds, BATCH) for name, seconds in times.items()},
        "two_processes_over_one_thread": ratio(times[ONE], times[PROCESSES]),
        "two_processes_over_two_threads": ratio(times[THREADS], times[PROCESSES]),
        "efficiency": ratio(times[ONE], times[PROCESSES]) / SETTINGS[PROCESSES][0],
        "reduced_mb": described[PROCESSES]["numbers"] * 4 / 1e6,
        "all_reduce": spread(reduced),
        "all_reduce_share_of_step": spread(reduced)["median_ms"] / spread(times[PROCESSES])["median_ms"],
        "updates_differ_by": float((learned[PROCESSES] - learned[ONE]).norm() / learned[ONE].norm()),
    }


def main() -> None:
    """Measure both widths, print the table, write JSON."""
    figures = {"batch": BATCH, "results": [measure(width) for width in WIDTHS]}
    Console().print(Markdown(table.scaling(figures)))
    print(f"{machine()['cores']} cores; written: {write('scaling', figures)}")


def _weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in network.parameters()])


def _answer(worker: subprocess.Popen[str]) -> Any:
    for line in _file(worker.stdout):
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    raise RuntimeError("a process of the benchmark has ended; its message stands above")


def _file(stream: TextIO | Any) -> Any:
    assert stream is not None
    return stream


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        work(float(sys.argv[2]))
    else:
        main()
