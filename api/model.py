"""Base of the API objects' models, and the field types they share.

Owns naming (camelCase on the wire), the size limits every list, map and string has, and how a CEL rule is
attached to a class or a field. Does not know any kind. See `crdgen.py` for how these become CRDs.
"""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from api.quantities import parse

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def _checked_quantity(value: object) -> str:
    text = str(value)
    parse(text)
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=NAME_PATTERN)]
"""Name of another object (RFC 1123)."""
ShortText = Annotated[str, StringConstraints(max_length=256)]
Text = Annotated[str, StringConstraints(max_length=4096)]
Path = Annotated[str, StringConstraints(max_length=1024)]
Quantity = Annotated[
    str,
    BeforeValidator(_checked_quantity),
    Field(max_length=64, json_schema_extra={"x-kubernetes-int-or-string": True}),
]
"""A Kubernetes quantity, kept as the user wrote it."""
StringMap = Annotated[
    dict[Annotated[str, StringConstraints(max_length=256)], Annotated[str, StringConstraints(max_length=4096)]],
    Field(max_length=64),
]
AnyObject = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""A part of Kubernetes' own API (PodTemplateSpec, NodeSelector, Toleration …), checked by the API server when
it is used."""


def cel(rule: str, message: str) -> dict[str, str]:
    """Return one x-kubernetes-validations entry."""
    return {"rule": rule, "message": message}


def immutable(field: str) -> dict[str, str]:
    """Return the transition rule of a field that may not change once set."""
    return cel("self == oldSelf", f"{field} cannot be changed; delete the object and make a new one")


def rules(*validations: dict[str, str]) -> dict[str, Any]:
    """Return `json_schema_extra` carrying CEL rules, for a field."""
    return {"x-kubernetes-validations": list(validations)}


class Model(BaseModel):
    """Base of every model: camelCase on the wire, unknown fields kept out silently as the API server prunes
    them."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    RULES: ClassVar[tuple[dict[str, str], ...]] = ()
    """CEL rules over the whole object of this class."""
    IS_TEMPLATE: ClassVar[bool] = False
    """Other objects are made from it: what may not change in those may change here."""

    def to_wire(self) -> dict[str, Any]:
        """Return the object as JSON-ready dict, unset optional fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class OwnerReference(Model):
    """metav1.OwnerReference."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Model):
    """metav1.ObjectMeta, the fields Headrace reads or writes."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)
    owner_references: list[OwnerReference] = Field(default_factory=list)


class KubeObject(Model):
    """A namespaced or cluster object: apiVersion, kind, metadata; subclasses add spec and status and tell
    `crdgen` their names."""

    GROUP: ClassVar[str]
    VERSION: ClassVar[str] = "v1alpha1"
    KIND: ClassVar[str]
    PLURAL: ClassVar[str]
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ()
    CATEGORIES: ClassVar[tuple[str, ...]] = ("headrace",)
    NAMESPACED: ClassVar[bool] = True
    COLUMNS: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    """Printer columns: (title, type, JSON path)."""

    SCALE: ClassVar[tuple[str, str, str] | None] = None
    """JSON paths of the scale subresource: wanted replicas, replicas there are, label selector; None: there is none."""

    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
