"""Networks by name, their feature maps, their cost, and their weights on disk."""

from svdistill.nets.compiling import compile_function, compile_module
from svdistill.nets.cost import Cost, count
from svdistill.nets.files import load, save, spec
from svdistill.nets.mobilenet import MobileNet
from svdistill.nets.modes import eval_mode, learning_alone
from svdistill.nets.pairs import suggest_pair
from svdistill.nets.recompute import recompute_activations, recomputes_activations
from svdistill.nets.resnet import ResNet
from svdistill.nets.resnext import ResNeXt
from svdistill.nets.suggest import Suggestion, suggest
from svdistill.nets.survey import Entry, Tap, survey, tap_shapes
from svdistill.nets.taps import Taps
from svdistill.nets.trace import Place
from svdistill.nets.vgg import VGG, FiveBlockVGG
from svdistill.nets.wrn import WideResNet
from svdistill.nets.zoo import create, default_taps, names

__all__ = [
    "Cost",
    "Entry",
    "FiveBlockVGG",
    "MobileNet",
    "Place",
    "ResNeXt",
    "ResNet",
    "Suggestion",
    "Tap",
    "Taps",
    "VGG",
    "WideResNet",
    "compile_function",
    "compile_module",
    "count",
    "create",
    "default_taps",
    "eval_mode",
    "learning_alone",
    "load",
    "names",
    "recompute_activations",
    "recomputes_activations",
    "save",
    "spec",
    "suggest",
    "suggest_pair",
    "survey",
    "tap_shapes",
]
