"""The verbs of the Kubernetes API over one session.

Owns how get, list, create, replace, patch and delete are spelled. Does not keep objects or
watch (kube/watch.py), nor decide about retries and deadlines (kube/transport.py). Invariant:
only what can be done twice without harm is sent twice.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import msgspec

from kube.decoding import ListPage, decode_page
from kube.errors import Gone, Unavailable
from kube.identity import JsonObject
from kube.resources import Resource
from kube.transport import Transport

T = TypeVar("T")

# A continue token lives about 5 minutes; a list that outlives it starts again this often.
LIST_RESTARTS = 3


class PatchKind(enum.Enum):
    """How a patch body is understood; the value is its media type."""

    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    JSON = "application/json-patch+json"
    APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class ListResult(Generic[T]):
    """All objects of a list (every page) and the resourceVersion a watch continues from."""

    items: list[T]
    resource_version: str


class KubeClient(Transport):
    """Async context manager; safe for many tasks of one event loop. Methods raise kube.errors."""

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> JsonObject:
        """Read one object as the API server has it now."""
        return _json(await self.request("GET", resource.path(namespace, name)))

    async def create(
        self,
        resource: Resource,
        body: Mapping[str, Any],
        namespace: str | None = None,
        *,
        field_manager: str | None = None,
    ) -> JsonObject:
        """Create an object; returns it as stored. Not repeated when the outcome is unknown."""
        params = {"fieldManager": field_manager} if field_manager else None
        answer = await self.request("POST", resource.path(namespace), body=encode(body), params=params)
        return _json(answer)

    async def replace(
        self,
        resource: Resource,
        name: str,
        body: Mapping[str, Any],
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> JsonObject:
        """Replace an object; with metadata.resourceVersion in `body` a concurrent change raises Conflict."""
        path = resource.path(namespace, name, subresource)
        return _json(await self.request("PUT", path, body=encode(body)))

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Any,
        namespace: str | None = None,
        *,
        kind: PatchKind = PatchKind.MERGE,
        subresource: str | None = None,
        field_manager: str | None = None,
        force: bool = False,
    ) -> JsonObject:
        """Patch an object; returns it as stored.

        APPLY (server-side apply) needs `field_manager`, creates a missing object, and takes fields
        over from other managers only with `force`. JSON takes a list of operations.
        """
        if kind is PatchKind.APPLY and not field_manager:
            raise ValueError("field_manager must be set for a server-side apply: name the part that owns the fields")
        params = {"fieldManager": field_manager} if field_manager else {}
        if force:
            params["force"] = "true"
        answer = await self.request(
            "PATCH",
            resource.path(namespace, name, subresource),
            body=encode(body),
            content_type=kind.value,
            params=params,
            # JSON patch operations (add to a list, test) are not the same when done twice.
            idempotent=kind is not PatchKind.JSON,
        )
        return _json(answer)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_period_seconds: int | None = None,
        propagation: str | None = None,
    ) -> None:
        """Ask for the deletion of an object; returns when it is accepted, not when it is finished.

        With `uid` a re-created object of the same name is safe: Conflict is raised instead.
        `propagation` is Foreground, Background or Orphan. NotFound is raised.
        """
        options: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        if propagation is not None:
            options["propagationPolicy"] = propagation
        await self.request("DELETE", resource.path(namespace, name), body=encode(options), idempotent=uid is not None)

    @overload
    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        decode: None = None,
        limit: int = 500,
        timeout_seconds: float | None = None,
    ) -> ListResult[JsonObject]: ...

    @overload
    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        decode: type[T],
        limit: int = 500,
        timeout_seconds: float | None = None,
    ) -> ListResult[T]: ...

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        decode: type[Any] | None = None,
        limit: int = 500,
        timeout_seconds: float | None = None,
    ) -> ListResult[Any]:
        """Read all objects of a kind, page by page, as of one resourceVersion.

        `decode` is a msgspec Struct (kube/objects.py) or None for plain dicts; `limit` is the page
        size; `timeout_seconds` is per page. An object whose fields have other types than `decode`
        says is left out, logged and counted: one bad object must not blind a controller.
        """
        params = selector_params(label_selector, field_selector) | {"limit": str(limit)}
        path = resource.path(namespace)
        restarts = 0
        items: Any = []
        while True:
            try:
                answer = await self.request("GET", path, params=params, timeout_seconds=timeout_seconds)
            except Gone:
                # The continue token expired between two pages: begin again, the pages must agree.
                restarts += 1
                if "continue" not in params or restarts > LIST_RESTARTS:
                    raise
                items = []
                del params["continue"]
                continue
            page = _decode_page(answer, decode or JsonObject, resource.plural)
            items.extend(page.items or ())
            if not page.metadata.continue_:
                return ListResult(items, page.metadata.resource_version)
            params["continue"] = page.metadata.continue_


def encode(body: Any) -> bytes:
    """JSON bytes of plain data or msgspec structs."""
    return msgspec.json.encode(body)


def selector_params(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    """Query parameters of the selectors that are given."""
    params = {}
    if label_selector:
        params["labelSelector"] = label_selector
    if field_selector:
        params["fieldSelector"] = field_selector
    return params


def _json(answer: bytes) -> JsonObject:
    try:
        return msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Unavailable(0, "BadAnswer", f"the answer is not a JSON object: {error}") from error


def _decode_page(answer: bytes, decode: Any, plural: str) -> ListPage[Any]:
    try:
        return decode_page(answer, decode, plural)
    except msgspec.DecodeError as error:
        raise Unavailable(0, "BadAnswer", f"the list of {plural} cannot be read: {error}") from error
