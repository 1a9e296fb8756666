"""What all settings have in common."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field

from svdistill.choices import MAX_EPOCHS
from svdistill.errors import brief

Fraction = Annotated[float, Field(gt=0, lt=1)]
# A number of epochs, or a fraction of them; see `plain_length` and `svdistill.choices.whole_epochs`.
Length = Annotated[int, Field(ge=0, le=MAX_EPOCHS)] | Fraction


class Settings(BaseModel):
    """Base of every part of a recipe: unknown keys and wrong types are refused, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def switched(value: Any) -> Any:
    """Take true for settings that are all defaults, and false for null."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


def plain_length(value: Any, *, none: str) -> Any:
    """Say in one sentence what a `Length` is: the union's own error has one line for each member.

    Args:
        value: what the recipe says.
        none: what a length of 0 means.

    Returns:
        The value, where it can be a length.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value < 1 or (isinstance(value, int) and value >= 1)):
        raise ValueError(f"expected epochs (1, 2, …), a fraction of them (0.5), or 0 for {none}; got {brief(value)}")
    return int(value) if value == 0 else value


def by_name(union: Any) -> dict[str, type[Any]]:
    """Return the members of a union of settings by the names that tell them apart.

    Args:
        union: ``Annotated[A | B, Field(discriminator="name")]``, where ``name`` is a Literal of one word in each.

    Returns:
        name → class, in the union's order.
    """
    members: tuple[type[Settings], ...] = get_args(get_args(union)[0])
    return {get_args(member.model_fields["name"].annotation)[0]: member for member in members}
