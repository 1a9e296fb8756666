"""The command line of `python -m benchmarks gpu`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu import cifar
from benchmarks.gpu.session import PARTS, Call, run
from benchmarks.measure import RESULTS

ABOUT = """One command for a scarce GPU: measure what matters most first, stop before the minutes are over, and leave
in DIR what was measured until then. Four parts, in this order:

  numerics       every loss and its gradient on the card against float64 on the CPU; captured steps against eager ones
  step           the training step of the VGG pair, every way it can be taken; the transfer loss's share; its kernels
  decomposition  every solver of the truncated SVD on every tap
  row            the published VGG row on CIFAR-100, 200 epochs: a teacher, then students, as many seeds as there is
                 time for; a run that would not finish is not begun
"""
EXAMPLES = """examples:

  python -m benchmarks gpu --rehearse --out /tmp/rehearsal            everything, tiny, on a CPU, in two minutes
  python -m benchmarks gpu --minutes 8 --out first                    all parts
  python -m benchmarks gpu --minutes 8 --out second --from first      go on: more seeds, what was left out
  python -m benchmarks gpu --minutes 8 --out DIR --parts row          the row alone
  python -m benchmarks table --from second                            the tables of the docs, from what came back

DIR gets a JSON file for each part and the teacher's weights, in pieces below 16 MiB; eight files at most.
Checkpoints go to a temporary folder (TMPDIR); a slow disk makes epochs slow.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or rehearse; the exit status is 1 where something failed, 2 where nothing was begun.

    Args:
        arguments: of the command line; None = this process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="that the call may take (10)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help=f"where the figures go ({RESULTS})")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="go on from an earlier call's figures")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="run these alone")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where CIFAR-100 is (where svdistill finds it)")
    parser.add_argument("--jobs", type=int, default=None, metavar="N", help="runs of the row side by side (5)")
    parser.add_argument("--epochs", type=int, default=None, metavar="N", help="of each run of the row (200)")
    parser.add_argument("--rehearse", action="store_true", help="try everything, tiny, on a CPU; measures nothing")
    given = parser.parse_args(arguments)
    if not given.rehearse and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; add --rehearse to try everything, tiny, on this CPU")
    if given.minutes <= 0 or any(number is not None and number < 1 for number in (given.jobs, given.epochs)):
        parser.error("--minutes, --jobs and --epochs must be above 0")
    if given.source is not None and not given.source.is_dir():
        parser.error(f"--from: no folder {given.source}; give the DIR that an earlier call has written")
    parts = [part for part in PARTS if part in given.parts]
    if "row" in parts and not given.rehearse and (found := cifar.find(given.data))[0] is None:
        print(f"the row is left out: {found[1]}", flush=True)
    call = Call(
        minutes=given.minutes,
        out=given.out,
        source=given.source,
        parts=parts,
        data=given.data,
        epochs=given.epochs,
        jobs=given.jobs or (2 if given.rehearse else 5),
        rehearse=given.rehearse,
    )
    sys.exit(run(call))


if __name__ == "__main__":
    main()
