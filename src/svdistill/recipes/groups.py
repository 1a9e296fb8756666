"""The groups of the shipped recipes: the folders that they lie in."""

from collections.abc import Mapping
from types import MappingProxyType

from svdistill.errors import RecipeError, nearest
from svdistill.recipes import files

# In the order in which they are of use to somebody who begins.
GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "digits": "scans of handwritten digits, which come with svdistill: seconds to minutes a run",
        "fashion-mnist": "pictures of clothes, few of them labelled: minutes on two cores",
        "regimes": "for comparisons: few labels, images without, teachers of other classes",
        "cifar100-small": "10 to 100 % of CIFAR-100, with three pairs of networks",
        "small": "the published pairs, narrow, to try out in minutes",
        "eccv": "the tables of the paper on KD-SVD (ECCV 2018)",
        "kd-methods": "the table of the authors' later collection of methods",
        "crd": "the protocol by which most papers compare: CIFAR-100, 240 epochs",
    }
)


def in_group(group: str) -> list[str]:
    """Return the names of the recipes of a group, in alphabetical order.

    Args:
        group: its name.

    Raises:
        RecipeError: there is no such group.
    """
    if group not in GROUPS:
        raise RecipeError(f"no group of recipes {group!r}{nearest(group, GROUPS)}")
    return [name for name in files.shipped() if name.startswith(f"{group}/")]
