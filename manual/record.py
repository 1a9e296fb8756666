"""Makes `manual/outputs`, an example of each command's output: `python -m manual.record`, with all extras installed.

Everything is trained anew in an empty folder, for few epochs; ten minutes on two cores. The home folder, the folder of
the environment and the address of the hub, which is the tests' stand-in, are replaced by names that anybody may have.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from tests.jobs.hub_server import TOKEN, serving

from svdistill import data

OUTPUTS = Path(__file__).parent / "outputs"
WIDTH = 80
_SHORT = "train.epochs=20 train.first_stage=10 teacher.overrides.train.epochs=10"
_TINY = "train.epochs=4 teacher.overrides.train.epochs=10"
_RUN = "runs/digits/svd-recommended"

# In this order, since one uses what another has made; a command that is there several times has several examples.
COMMANDS = [
    "demo --seeds 2 --epochs 4 --output demo.png",
    f"train digits/svd-recommended {_SHORT}",
    "train digits/student train.epochs=20 --quiet",
    "new mine.yaml --data digits --labels 50",
    "doctor mine.yaml",
    f"cache digits/svd views=2 {_TINY}",
    f"compare digits/svd {_TINY} --methods alone,soft-target,svd --seeds 3",
    "report comparisons/digits-svd/comparison.json",
    f"evaluate {_RUN}",
    f"predict {_RUN} scans",
    f"export {_RUN} --int8",
    f"push {_RUN} me/digits-student",
    "pull me/digits-student",
    "networks --classes 10 --image-size 16 --width 0.25",
    "networks --taps resnext-student",
    "taps vgg-student",
    "taps resnet20 --pair resnet56",
    "env",
    "runs list runs/digits",
    f"runs show {_RUN}",
    f"runs compare {_RUN} runs/digits/student",
    "runs clean runs/digits --only checkpoints --yes",
    "recipes list",
    "recipes list digits",
    "recipes methods",
    "recipes show digits/svd",
    "data list",
    "data fetch digits",
    "data show digits",
]


def name_of(line: str) -> str:
    """Return the command in a line, ``runs list``, without what follows it."""
    words = line.split()
    return " ".join(words[:2]) if words[0] in ("runs", "recipes", "data") else words[0]


def run(line: str, folder: Path, **variables: str) -> str:
    """Call a command in a folder and return what it prints, both streams as a terminal would show them."""
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-m", "svdistill", *shlex.split(line)],
        cwd=folder,
        env=kept | {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "HOME": str(folder / "home")} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return tidy(done.stdout)


def tidy(text: str) -> str:
    """Return an output without the spaces that fill lines, and without empty lines around it."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def main() -> None:
    """Make all of it."""
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
            f"  PYTHONPATH: {os.environ.get('PYTHONPATH')}\n": "",
            str(Path(data.__file__).parent.parent): "/home/me/env/lib/python3.11/site-packages/svdistill",
        }
        found: dict[str, list[str]] = {}
        for line in COMMANDS:
            print(line, flush=True)
            text = run(line, folder, HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
            for mine, yours in names.items():
                text = text.replace(mine, yours)
            found.setdefault(name_of(line), []).append(f"$ svdistill {line}\n{text}\n")
        for name, examples in found.items():
            (OUTPUTS / f"{name.replace(' ', '-')}.txt").write_text("\n".join(examples), encoding="utf-8")


if __name__ == "__main__":
    main()
