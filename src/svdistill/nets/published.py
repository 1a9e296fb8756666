"""What papers print about the cost of their networks, to stand beside what is counted here."""

from typing import NamedTuple


class Published(NamedTuple):
    """The printed cost of a network at 32×32 pixels.

    Attributes:
        parameters: in millions.
        mflops: millions of FLOPs, 2 × multiply-adds; None where none are printed.
        classes: for how many classes.
        source: where it is printed.
        note: why it differs from what is counted here, where it does by more than rounding.
    """

    parameters: float
    mflops: float | None
    classes: int
    source: str
    note: str = ""


_LEE = "Lee et al. 2018"
_ZAGORUYKO = "Zagoruyko, Komodakis 2017"
_HE = "He et al. 2016"

PUBLISHED = {
    "vgg-teacher": Published(10.9, 576.3, 100, _LEE),
    "vgg-student": Published(3.8, 121.3, 100, _LEE),
    "vgg-stride-student": Published(
        3.8, 15.6, 100, _LEE, "printed FLOPs that do not follow from the paper's description"
    ),
    "mobilenet-teacher": Published(2.3, 98.4, 100, _LEE),
    "mobilenet-student": Published(0.82, 37.8, 100, _LEE),
    "resnext-teacher": Published(0.66, 547.3, 100, _LEE),
    "resnext-student": Published(
        0.34, 247.6, 100, _LEE, "printed FLOPs that look like 274.6 with two digits exchanged"
    ),
    **{
        f"resnet{depth}": Published(
            parameters, None, 10, _HE, "printed for 10 classes and shortcuts without parameters"
        )
        for depth, parameters in ((20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7))
    },
    **{
        name: Published(parameters, None, 10, _ZAGORUYKO)
        for name, parameters in (("wrn-16-1", 0.2), ("wrn-16-2", 0.7), ("wrn-40-1", 0.6), ("wrn-40-2", 2.2))
    },
}
