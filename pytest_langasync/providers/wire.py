"""What providers send, read leniently: unknown fields are ignored, odd values count as absent."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

__all__ = ["Lenient", "Moment", "Objects", "Row", "epoch"]


class Lenient(BaseModel):
    """An object of somebody else's. A field that does not fit has its default."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def tolerate(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """Return what a field makes of a value, or its default."""
        try:
            return handler(value)
        except ValidationError:
            field = cls.model_fields[str(info.field_name)]
            return field.get_default(call_default_factory=True)


def epoch(value: Any) -> float:
    """Return seconds since the epoch: of a number, or of an RFC 3339 time; 0 for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        moment = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        return 0.0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return aware.timestamp()


def _objects(value: Any) -> list[Any]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


Moment = Annotated[float, BeforeValidator(epoch)]
"""Seconds since the epoch; 0 where there is no time."""
Objects = Annotated[list[Mapping[str, Any]], BeforeValidator(_objects)]
"""The objects of what should be a list of them."""


class Response(Lenient):
    """The HTTP answer inside a row."""

    status_code: int = 0
    request_id: str = ""
    body: Any = None
    headers: Any = None


class Row(Lenient):
    """A line of results, in the shape that OpenAI gave it and most others took over."""

    custom_id: str = ""
    response: Response | None = None
    error: Any = None
