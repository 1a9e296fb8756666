"""Checks of the numbers and switches that losses are made with."""

import math

from svdistill.choices import is_number
from svdistill.errors import OptionError


def check_temperature(temperature: float) -> None:
    """Raise unless a temperature is a positive number.

    Raises:
        OptionError: it is not.
    """
    if not (is_number(temperature) and temperature > 0 and math.isfinite(temperature)):
        raise OptionError(f"temperature must be a positive number, got {temperature!r}")


def check_factors(**factors: float) -> None:
    """Raise unless each factor on a part of a loss, given by its name, is a number of at least 0.

    Raises:
        OptionError: one is not.
    """
    for name, value in factors.items():
        if not (is_number(value) and value >= 0 and math.isfinite(value)):
            raise OptionError(f"{name} must be a number of at least 0, got {value!r}")


def check_switches(**switches: bool) -> None:
    """Raise unless each switch, given by its name, is True or False: a text would count as True, whatever it says.

    Raises:
        OptionError: one is neither.
    """
    for name, value in switches.items():
        if value not in (True, False):
            raise OptionError(f"{name} must be True or False, got {value!r}")
