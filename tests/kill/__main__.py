"""Kill trainings at random moments, resume them, and count what differs from trainings that nobody killed.

``python -m tests.kill --kills 100 --seed 0``; the last line is the count, and the status is 1 where it is not 0.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tests.kill.harness import SCENARIOS, Killed, Unkilled, run_killed, run_unkilled, start


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="how many there are (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--folder", type=Path, help="keep all runs here (default: only those that differ are kept)")
    given = parser.parse_args()
    if given.kills < 1:
        parser.error("--kills: give at least 1")
    if given.folder is not None and given.folder.exists():
        parser.error(f"--folder: {given.folder} is there; give one that is not")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="svdistill-kill-"))
    killed = kill_all(given.kills, folder, seed=given.seed, keep=given.folder is not None)
    wrong = sum(bool(one.differences) for one in killed)
    if given.folder is None and not wrong:
        shutil.rmtree(folder)
    kills = sum(len(one.moments) for one in killed)
    print(f"{kills} kills over {len(killed)} runs: {wrong} differences")
    sys.exit(1 if wrong else 0)


def kill_all(kills: int, folder: Path, *, seed: int, keep: bool) -> list[Killed]:
    """Kill until there were as many kills as asked for, spread over all scenarios; tell of each on the terminal."""
    console, draw, killed = Console(), random.Random(seed), []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("kills", total=kills)
        # The first process waits until the libraries are loaded, which is no part of the time of a run.
        folder.mkdir(parents=True, exist_ok=True)
        start(["recipes"], folder / "output.log").join()
        teacher = None
        for number, scenario in enumerate(SCENARIOS):
            progress.update(bar, description=scenario.name)
            place = folder / scenario.name.replace(" ", "-")
            unkilled = run_unkilled(scenario, place / "unkilled", start=teacher if scenario.has_teacher else None)
            if teacher is None:
                teacher = _teacher_of(unkilled, folder)
            moments: Counter[str] = Counter()
            share = kills * (number + 1) // len(SCENARIOS) - kills * number // len(SCENARIOS)
            runs = 0
            while (left := share - moments.total()) > 0:
                one = run_killed(unkilled, place / str(runs), most=left, draw=draw)
                killed.append(one)
                moments.update(one.moments)
                runs += 1
                progress.advance(bar, len(one.moments))
                for line in one.differences:
                    console.print(f"{one.runs}: {line}", markup=False, soft_wrap=True)
                if not one.differences and not keep:
                    shutil.rmtree(one.runs)
            told = ", ".join(f"{times} {moment}" for moment, times in sorted(moments.items()))
            console.print(f"{scenario.name}: {share} kills over {runs} runs of {unkilled.seconds:.1f} s: {told}")
    return killed


def _teacher_of(unkilled: Unkilled, folder: Path) -> Path:
    """Return a folder of runs in which the teacher of a scenario alone is there."""
    start = folder / "teacher-alone"
    shutil.copytree(unkilled.runs / "digits" / "teacher", start / "digits" / "teacher")
    return start


if __name__ == "__main__":
    main()
