"""Runs a program as `python PROGRAM` does, where torchvision may lack its compiled operators.

Usage: run_example.py PROGRAM. Without CUDA libraries those cannot be loaded, and declaring two of them is all that the
import of torchvision, by whichever library, asks for.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

import torch

if __name__ == "__main__":
    operators = torch.library.Library("torchvision", "FRAGMENT")
    if importlib.util.find_spec("torchvision"):
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    sys.path[0] = str(Path(sys.argv[1]).parent)
    runpy.run_path(sys.argv[1], run_name="__main__")
