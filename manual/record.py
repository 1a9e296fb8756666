"""Makes `manual/outputs`, an example of each command's output: `python -m manual.record`, with all extras installed.

Everything is trained anew in an empty folder; ten minutes on two cores. The home folder, the
folder of the environment and the address of the hub, which is the tests' stand-in, are replaced by names that
anybody may have.
"""

import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from tests.jobs.hub_server import TOKEN, serving
from tests.processes import hear_interrupts

from svdistill import data

OUTPUTS = Path(__file__).parent / "outputs"
WIDTH = 80
_RUN = "runs/digits/svd-recommended"

# In this order, since one uses what another has made; a command that is there several times has several examples.
COMMANDS = [
    "env",
    "recipes list",
    "recipes list digits",
    "recipes methods",
    "recipes show digits/svd",
    "networks --taps resnext-student",
    "taps vgg-student",
    "data list",
    "data fetch fashion-mnist",
    "data show digits",
    "new mine.yaml --data digits --labels 50",
    "train digits/svd-recommended",
    "train digits/student --quiet",
    f"evaluate {_RUN}",
    f"predict {_RUN} scans",
    f"export {_RUN} --int8",
    f"push {_RUN} me/digits-student",
    "pull me/digits-student",
    "runs list runs/digits",
    f"runs show {_RUN}",
    f"runs compare {_RUN} runs/digits/student",
    "runs clean runs/digits --only checkpoints --yes",
    "doctor digits/svd-recommended",
    "cache digits/svd views=2",
    "compare digits/svd --methods alone,svd",
    "report comparisons/digits-svd/comparison.json",
    "demo",
    "watch runs",
]
# What runs until Ctrl-C, and what it prints once it is ready for that.
_ENDLESS = {"watch"}
_SAYS_IT_IS_THERE = "Ctrl-C"


def name_of(line: str) -> str:
    """Return the command in a line, ``runs list``, without what follows it."""
    words = line.split()
    return " ".join(words[:2]) if words[0] in ("runs", "recipes", "data") else words[0]


def run(line: str, folder: Path, **variables: str) -> str:
    """Call a command in a folder and return what it prints, both streams as a terminal would show them."""
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS")}
    with subprocess.Popen(
        [sys.executable, "-m", "svdistill", *shlex.split(line)],
        cwd=folder,
        env=kept | {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "HOME": str(folder / "home")} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hear_interrupts,
    ) as process:
        assert process.stdout is not None
        began = ""
        if name_of(line) in _ENDLESS:
            while _SAYS_IT_IS_THERE not in began:
                began += process.stdout.readline()
            time.sleep(1)  # it is ready a moment later
            process.send_signal(signal.SIGINT)
        rest = process.stdout.read()  # communicate() would lose lines that readline() has buffered
    if process.returncode:
        sys.exit(f"error: status {process.returncode}: svdistill {line}\n{began}{rest}")
    return tidy(began + rest)


def tidy(text: str) -> str:
    """Return an output without the spaces that fill lines, and without empty lines around it."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def main() -> None:
    """Make all of it, or with an argument say what that is."""
    if len(sys.argv) > 1:
        print(__doc__)
        return
    OUTPUTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, serving() as hub:
        folder = Path(temporary).resolve()
        (folder / "scans").mkdir()
        (scans,) = data.load("digits").test.batches([torch.tensor([0, 200, 400, 600])])
        for number, pixels in enumerate(scans[:, 0]):
            Image.fromarray(pixels.numpy()).save(folder / f"scans/{number}.png")
        names = {
            str(folder / "home"): "/home/me",
            str(folder): "/home/me/work",
            sys.prefix: "/home/me/env",
            hub.address: "https://huggingface.co",
            platform.platform(): "Linux-6.1.0-x86_64-with-glibc2.36",
            f"  PYTHONPATH: {os.environ.get('PYTHONPATH')}\n": "",
            str(Path(data.__file__).parent.parent): "/home/me/env/lib/python3.11/site-packages/svdistill",
        }
        found: dict[str, list[str]] = {}
        for line in COMMANDS:
            print(line, flush=True)
            text = run(line, folder, HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
            for mine, yours in names.items():
                text = text.replace(mine, yours)
            name = name_of(line)
            found.setdefault(name, []).append(f"$ svdistill {line}\n{text}\n")
            (OUTPUTS / f"{name.replace(' ', '-')}.txt").write_text("\n".join(found[name]), encoding="utf-8")


if __name__ == "__main__":
    main()
