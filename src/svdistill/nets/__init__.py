"""Networks by name, their feature maps, their cost, and their weights on disk."""

from svdistill.nets.cost import Cost, count
from svdistill.nets.files import load, save, spec
from svdistill.nets.taps import Taps
from svdistill.nets.vgg import VGG
from svdistill.nets.zoo import create, default_taps, names

__all__ = ["Cost", "Taps", "VGG", "count", "create", "default_taps", "load", "names", "save", "spec"]
