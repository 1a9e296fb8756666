"""`python -m benchmarks.drawings` makes the drawings of docs/method.md, of networks that it trains on digits."""

import argparse
from pathlib import Path

from benchmarks.drawings import bound, matrix, networks, relation, spectrum, vectors
from benchmarks.drawings.scene import RECIPE, Scene, pair, trained
from svdistill.atomic import write_atomically
from svdistill.report.drawing import draw_method

DRAWINGS = {one.__name__.rpartition(".")[2]: one for one in (networks, matrix, spectrum, vectors, relation, bound)}


def write(scene: Scene, folder: Path) -> list[Path]:
    """Write all drawings into a folder and return their files."""
    files = []
    for name, drawing in DRAWINGS.items():
        files.append(folder / f"method-{name}.svg")
        write_atomically(files[-1], drawing.draw(scene).encode())
    files.append(folder / "method.png")
    draw_method(pair(scene), files[-1])
    return files


def main() -> None:
    """Make the drawings that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drawings", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"replace settings of {RECIPE}")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs; those that are there are used")
    parser.add_argument("--image", type=int, default=0, metavar="N", help="number of the test image")
    parser.add_argument("--output", type=Path, default=Path("docs"), metavar="FOLDER")
    given = parser.parse_args()
    print(*write(trained(given.overrides, given.runs, given.image), given.output), sep="\n")


if __name__ == "__main__":
    main()
