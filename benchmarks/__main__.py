"""`python -m benchmarks [NAME …]`: run some benchmarks, or the transfer loss and the training step."""

import sys

from benchmarks import loss, solvers, step

BENCHMARKS = {"loss": loss.main, "step": step.main, "solvers": solvers.main}
DEFAULT = ("loss", "step")


def main() -> None:
    """Run the benchmarks that are named on the command line."""
    names = sys.argv[1:] or DEFAULT
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"error: unknown benchmark {unknown[0]!r}; known: {', '.join(BENCHMARKS)}")
    for name in names:
        BENCHMARKS[name]()


main()
