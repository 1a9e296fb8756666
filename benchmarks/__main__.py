"""`python -m benchmarks [NAME …]` runs benchmarks; `gpu` and `regimes` have options.

`table` makes the docs' tables of their figures, and `series` the picture of the regimes of CIFAR-100.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.measure import LOAD_BEFORE

NAMES = ("loss", "decomposition", "step", "pipeline", "scaling", "gpu", "endurance")
# Only where they are named: the first needs a GPU, the second takes half an hour.
_APART = ("gpu", "endurance")


def run(names: list[str]) -> None:
    """Run benchmarks in turn, each in a process of its own, so that what one leaves in memory does not slow another."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"error: unknown benchmark {unknown[0]!r}; known: {', '.join(NAMES)}, and table")
    environment = os.environ | {LOAD_BEFORE: str(os.getloadavg()[0])}
    usual = [name for name in NAMES if name not in _APART or (name == "gpu" and torch.cuda.is_available())]
    failed = [
        name
        for name in names or usual
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], env=environment, check=False).returncode
    ]
    if failed:
        sys.exit(f"error: failed: {', '.join(failed)}")


def main() -> None:
    """Run what the command line asks for."""
    if sys.argv[1:2] == ["gpu"]:
        gpu.main(sys.argv[2:])
    if sys.argv[1:2] == ["regimes"]:
        from benchmarks import regimes  # needs nothing that the others need

        regimes.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["series"]:
        from benchmarks import series

        series.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="See also: python -m benchmarks gpu --help; the same of regimes and series",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(NAMES)} (all that the machine can run but endurance), or table",
    )
    parser.add_argument("--from", dest="source", type=Path, help="table: copy the figures from this folder first")
    given = parser.parse_args()
    if given.names != ["table"]:
        if given.source is not None:
            parser.error("--from belongs to table and gpu")
        run(given.names)
        return
    from benchmarks import table  # draws in what a machine that only measures may lack

    if given.source is not None:
        table.adopt(given.source)
    table.update()


if __name__ == "__main__":
    main()
