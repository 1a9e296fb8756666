"""One part, in a process of its own: `python -m benchmarks.gpu.part NAME …`, which `benchmarks.gpu` calls."""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu import cifar, decomposition, numerics, row, step
from benchmarks.gpu.scale import MEASURED, REHEARSED
from benchmarks.gpu.session import PARTS
from benchmarks.gpu.sheet import Clock, Sheet, say
from svdistill.errors import one_line

WORDS = {"numerics": numerics.measure, "step": step.measure, "decomposition": decomposition.measure}
ENDING = 6.0  # seconds that it may take to end the row's workers


def main() -> None:
    """Measure a part; the exit status is 1 where something failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    scale = REHEARSED if given.rehearse else MEASURED
    if given.epochs is not None:
        scale = replace(scale, epochs=given.epochs)
    sheet = Sheet(given.part, given.out, rehearsal=scale.rehearsal)
    # What a network learns depends on no card; each run says on which it was trained.
    taken_over = sheet.resume(given.source, same=()) if given.part == "row" else sheet.resume(given.source)
    if taken_over:
        say(taken_over)
    sheet.write()
    try:
        if given.part == "row":
            root = cifar.make_up(given.work / "cifar100") if scale.rehearsal else cifar.find(given.data)[0]
            clock = Clock(given.until - ENDING)
            row.measure(sheet, scale, clock, root=root, work=given.work, source=given.source, jobs=given.jobs)
        else:
            WORDS[given.part](sheet, scale, Clock(given.until))
    except Exception as error:
        sheet.errors[given.part] = f"{type(error).__name__}: {one_line(error)}"
        say(f"{given.part}: failed: {sheet.errors[given.part]}")
    sheet.finished = not sheet.errors and time.time() < given.until
    sheet.write()
    sys.exit(1 if sheet.errors else 0)


if __name__ == "__main__":
    main()
