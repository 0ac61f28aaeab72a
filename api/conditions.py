"""Condition lists of Kubernetes objects: one rule for setting them.

Owns `set_condition`. The types and reasons of an object stand beside its model.
Invariant: `lastTransitionTime` changes only when `status` does.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(BaseModel):
    """metav1.Condition: one aspect of an object's state, with a reason a program and a message a person reads."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    type: str = Field(max_length=316)
    status: ConditionStatus
    reason: str = Field(max_length=1024)
    message: str = Field(default="", max_length=32768)
    last_transition_time: str = Field(default="", max_length=64, description="RFC 3339; when status last changed")
    observed_generation: int | None = None


Conditions = Annotated[list[Condition], Field(max_length=16)]
"""What most kinds have in their status."""


def timestamp(now_seconds: float) -> str:
    """Return seconds since 1970 as Kubernetes writes times (RFC 3339, UTC, whole seconds)."""
    return datetime.fromtimestamp(now_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> float:
    """Return seconds since 1970 of a time as Kubernetes writes it (with or without fractions)."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def set_condition(conditions: Sequence[Condition], new: Condition, now_seconds: float) -> list[Condition]:
    """Return `conditions` with `new` in its type's place (appended if absent), keeping an unchanged
    status' transition time."""
    result, found = [], False
    for old in conditions:
        if old.type != new.type:
            result.append(old)
            continue
        found = True
        kept = old.last_transition_time if old.status == new.status and old.last_transition_time else ""
        result.append(new.model_copy(update={"last_transition_time": kept or timestamp(now_seconds)}))
    if not found:
        result.append(new.model_copy(update={"last_transition_time": timestamp(now_seconds)}))
    return result


def find_condition(conditions: Sequence[Condition], type_: str) -> Condition | None:
    """Return the condition of that type, or None."""
    return next((condition for condition in conditions if condition.type == type_), None)
