"""What all settings have in common."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, lt=1)]


class Settings(BaseModel):
    """Base of every part of a recipe: unknown keys and wrong types are refused, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def by_name(union: Any) -> dict[str, type[Any]]:
    """Return the members of a union of settings by the names that tell them apart.

    Args:
        union: ``Annotated[A | B, Field(discriminator="name")]``, where ``name`` is a Literal of one word in each.

    Returns:
        name → class, in the union's order.
    """
    members: tuple[type[Settings], ...] = get_args(get_args(union)[0])
    return {get_args(member.model_fields["name"].annotation)[0]: member for member in members}
