"""What data a pod says it reads: the annotation, inline CSI volumes and the checkpoint annotation.

Owns their grammar and the sentences for what is wrong with them. Does not know which claims are Datasets
(core/volume_table.py) nor what is resident where (core/residency_table.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api import names
from kube.objects import Volume

MAX_DATASETS = 64
# Thirty years: nobody waits longer than the seconds that are saved.
MAX_WAIT_SECONDS = 1_000_000_000
MAX_BYTES = (1 << 63) - 1
MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class DataRequest:
    """One dataset a pod reads. `paths` () means all of it; `max_wait_seconds` 0 means: do not wait."""

    namespace: str
    name: str
    paths: tuple[str, ...] = ()
    is_required: bool = False
    max_wait_seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return (self.namespace, self.name)


class BadDataRequest(ValueError):
    """An annotation that cannot be understood; the text is shown to the user."""


def parse_datasets(text: str, pod_namespace: str) -> tuple[DataRequest, ...]:
    """Parse names.DATASETS_ANNOTATION; raises BadDataRequest with one sentence."""
    where = f"annotation {names.DATASETS_ANNOTATION}"
    raw = _json(text, where, '[{"name":"imagenet"}]')
    if not isinstance(raw, list):
        raise BadDataRequest(f'{where} must be a JSON list, like [{{"name":"imagenet"}}]')
    if len(raw) > MAX_DATASETS:
        raise BadDataRequest(f"{where} names {len(raw)} datasets; at most {MAX_DATASETS} are allowed")
    return tuple(_dataset(item, f"{where}[{index}]", pod_namespace) for index, item in enumerate(raw))


def _dataset(item: Any, where: str, pod_namespace: str) -> DataRequest:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not item["name"]:
        raise BadDataRequest(f'{where} must be an object with a "name", like {{"name":"imagenet"}}')
    namespace = item.get("namespace") or pod_namespace
    paths = item.get("paths") or []
    required = item.get("required", False)
    wait = item.get("maxWaitSeconds") or 0
    if not isinstance(namespace, str):
        raise BadDataRequest(f"{where}.namespace {_short(namespace)} must be a string")
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise BadDataRequest(f'{where}.paths {_short(paths)} must be a list of strings, like ["train/"]')
    if not isinstance(required, bool):
        raise BadDataRequest(f"{where}.required {_short(required)} must be true or false")
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= MAX_WAIT_SECONDS:
        raise BadDataRequest(
            f"{where}.maxWaitSeconds {_short(wait)} must be a number of seconds, 0 or more, at most {MAX_WAIT_SECONDS}"
        )
    return DataRequest(namespace, item["name"], tuple(paths), required, float(wait))


def parse_checkpoint(text: str) -> tuple[tuple[str, int], ...]:
    """Parse names.CHECKPOINT_NODES_ANNOTATION: (node, bytes) pairs; raises BadDataRequest."""
    where = f"annotation {names.CHECKPOINT_NODES_ANNOTATION}"
    raw = _json(text, where, '{"node-1": 1024}')
    if not isinstance(raw, dict) or not all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_BYTES for value in raw.values()
    ):
        raise BadDataRequest(f'{where} must map node names to bytes, like {{"node-1": 1024}}')
    return tuple(sorted(raw.items()))


def _json(text: str, where: str, example: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise BadDataRequest(f"{where} is not valid JSON (nested too deeply); write it like {example}") from None
    except ValueError as error:
        raise BadDataRequest(f"{where} is not valid JSON ({error}); write it like {example}") from None


def _short(value: object) -> str:
    """A value as a sentence can hold it: an annotation may be 256 KiB long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def inline_datasets(volumes: Sequence[Volume], pod_namespace: str) -> tuple[DataRequest, ...]:
    """Datasets of inline CSI volumes of our driver; raises BadDataRequest when one has no name."""
    found = []
    for volume in volumes:
        if volume.csi is None or volume.csi.driver != names.CSI_DRIVER:
            continue
        attributes: Mapping[str, str] = volume.csi.volume_attributes
        name = attributes.get(names.CSI_ATTRIBUTE_DATASET)
        if not name:
            raise BadDataRequest(
                f"volume {volume.name!r} of driver {names.CSI_DRIVER} has no volumeAttributes."
                f"{names.CSI_ATTRIBUTE_DATASET}; name the Dataset there"
            )
        found.append(DataRequest(attributes.get(names.CSI_ATTRIBUTE_NAMESPACE) or pod_namespace, name))
    return tuple(found)


def merge(requests: Sequence[DataRequest]) -> tuple[DataRequest, ...]:
    """One request a dataset: required if any says so, the longest wait, all paths unless one asks for all."""
    merged: dict[tuple[str, str], DataRequest] = {}
    for new in requests:
        old = merged.get(new.key)
        if old is None:
            merged[new.key] = new
            continue
        # The annotation refines a volume's plain mention of the same dataset.
        paths = new.paths if not old.paths else old.paths if not new.paths else old.paths + new.paths
        merged[new.key] = DataRequest(
            new.namespace,
            new.name,
            tuple(dict.fromkeys(paths)),
            old.is_required or new.is_required,
            max(old.max_wait_seconds, new.max_wait_seconds),
        )
    return tuple(merged.values())
