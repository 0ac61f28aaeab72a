"""Volume ids and volume contexts: which dataset, which part of it, for whom.

Owns their grammar. Three kinds of id are understood:

    team-a/imagenet                     a PersistentVolume written by hand
    team-a/imagenet/3f0a9c…             made by CreateVolume: the hash of the claim's name keeps ids apart
    anything of [A-Za-z0-9._-]          the id says nothing (kubelet's inline volumes, the cache controller's PVs);
                                        the context must name the dataset

Invariants: what parses has no "..", no "/" inside a name, no control characters; an id and a context that name
different datasets are refused.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from api import names
from fuse.csi.errors import BadRequest, Forbidden

LABEL_PATTERN: Final = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
"""RFC 1123 label: a namespace."""
NAME_PATTERN: Final = rf"{LABEL_PATTERN}(?:\.{LABEL_PATTERN})*"
"""RFC 1123 subdomain: a Dataset."""
NAME_CHARACTERS_MAX: Final = 253
VOLUME_ID_CHARACTERS_MAX: Final = 400
SUB_PATH_CHARACTERS_MAX: Final = 1024
CLAIM_HASH_CHARACTERS: Final = 16
KEY_CHARACTERS: Final = 32
SHOWN_CHARACTERS: Final = 120
"""Of a hostile value, in an error."""

_NAMED = re.compile(rf"({LABEL_PATTERN})/({NAME_PATTERN})(?:/([0-9a-f]{{{CLAIM_HASH_CHARACTERS}}}))?")
_OPAQUE = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]{0,127}")
_LABEL = re.compile(LABEL_PATTERN)
_NAME = re.compile(NAME_PATTERN)

CONTEXT_EPHEMERAL: Final = "csi.storage.k8s.io/ephemeral"
CONTEXT_POD_NAMESPACE: Final = "csi.storage.k8s.io/pod.namespace"
_FOREIGN_PREFIXES: Final = ("csi.storage.k8s.io/", "storage.kubernetes.io/")
"""Keys kubelet and the external-provisioner add."""
_OWNER_KEYS: Final = (names.CSI_ATTRIBUTE_UID, names.CSI_ATTRIBUTE_GID)
_OWN_KEYS: Final = frozenset(
    {names.CSI_ATTRIBUTE_DATASET, names.CSI_ATTRIBUTE_NAMESPACE, names.CSI_ATTRIBUTE_SUB_PATH, *_OWNER_KEYS}
)


@dataclass(frozen=True, slots=True, order=True)
class DatasetRef:
    """One Dataset by its names."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def key(self) -> str:
        """Its name in paths of the node: a hash, never user text."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:KEY_CHARACTERS]


@dataclass(frozen=True, slots=True)
class VolumeRequest:
    """What a call asks for. `sub_path` is relative to the dataset's root; "" is all of it."""

    volume_id: str
    dataset: DatasetRef
    sub_path: str
    is_inline: bool

    @property
    def root(self) -> str:
        """The path inside the FUSE mount, which is also the root of its bind mounts: /namespace/dataset/…"""
        return f"/{self.dataset}/{self.sub_path}" if self.sub_path else f"/{self.dataset}"


def shown(value: str) -> str:
    """Return a value as an error may show it: quoted, escaped, cut."""
    cut = value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "…"
    return ascii(cut)


def check_volume_id(volume_id: str) -> DatasetRef | None:
    """Return the dataset an id names, None for an id that names none; BadRequest for all others."""
    if not volume_id:
        raise BadRequest("volume_id is empty; it must be NAMESPACE/DATASET, or any id with the dataset in its context")
    if len(volume_id) <= VOLUME_ID_CHARACTERS_MAX:
        named = _NAMED.fullmatch(volume_id)
        if named is not None and len(named[2]) <= NAME_CHARACTERS_MAX:
            return DatasetRef(named[1], named[2])
        if _OPAQUE.fullmatch(volume_id) is not None:
            return None
    raise BadRequest(
        f"volume_id {shown(volume_id)} is none this driver gives out; it must be NAMESPACE/DATASET (names of "
        "Kubernetes objects), or letters, digits and -._ with the dataset in its context"
    )


def parse_volume(volume_id: str, context: Mapping[str, str]) -> VolumeRequest:
    """Return what an id and its context ask for. BadRequest names the field that is wrong; Forbidden when an
    inline volume names another namespace's dataset."""
    from_id = check_volume_id(volume_id)
    check_keys("volumeAttributes", context)
    is_inline = context.get(CONTEXT_EPHEMERAL) == "true"
    sub_path = check_sub_path(context.get(names.CSI_ATTRIBUTE_SUB_PATH, ""))
    if from_id is not None and names.CSI_ATTRIBUTE_DATASET not in context:
        dataset = from_id
    else:
        dataset = _from_context(volume_id, context)
    if from_id is not None and dataset != from_id:
        raise BadRequest(
            f"volume_id {shown(volume_id)} and its volumeAttributes name two datasets, {from_id} and {dataset}; "
            "they must be the same"
        )
    if is_inline:
        _check_namespace(dataset, context.get(CONTEXT_POD_NAMESPACE, ""))
    return VolumeRequest(volume_id, dataset, sub_path, is_inline)


def check_keys(field: str, given: Mapping[str, str]) -> None:
    """BadRequest for a key that nobody would read, which is a misspelt one."""
    for key in given:
        if key not in _OWN_KEYS and not key.startswith(_FOREIGN_PREFIXES):
            raise BadRequest(
                f"{field} has {shown(key)}, which this driver does not know; it knows {', '.join(sorted(_OWN_KEYS))}"
            )


def _from_context(volume_id: str, context: Mapping[str, str]) -> DatasetRef:
    name = context.get(names.CSI_ATTRIBUTE_DATASET, "")
    if not name:
        raise BadRequest(
            f"volume {shown(volume_id)} names no dataset; volumeAttributes.{names.CSI_ATTRIBUTE_DATASET} must be the "
            "name of a Dataset"
        )
    # An inline volume speaks of its pod's own namespace unless it says so.
    namespace = context.get(names.CSI_ATTRIBUTE_NAMESPACE) or context.get(CONTEXT_POD_NAMESPACE, "")
    return dataset_ref(namespace, name)


def dataset_ref(namespace: str, name: str) -> DatasetRef:
    """Return the dataset of these two attributes; BadRequest when one is no name of a Kubernetes object."""
    if _LABEL.fullmatch(namespace) is None:
        raise BadRequest(
            f"{names.CSI_ATTRIBUTE_NAMESPACE} {shown(namespace)} is not the name of a namespace; it must be lower "
            "case letters, digits and -, at most 63"
        )
    if len(name) > NAME_CHARACTERS_MAX or _NAME.fullmatch(name) is None:
        raise BadRequest(
            f"{names.CSI_ATTRIBUTE_DATASET} {shown(name)} is not the name of a Dataset; it must be lower case letters, "
            f"digits, - and ., at most {NAME_CHARACTERS_MAX}"
        )
    return DatasetRef(namespace, name)


def _check_namespace(dataset: DatasetRef, pod_namespace: str) -> None:
    """Anyone who may create a pod writes inline volumes, so these reach the pod's own namespace only. A
    PersistentVolume is written by who administers the cluster, and is a grant by itself."""
    if not pod_namespace:
        raise BadRequest(
            f"{CONTEXT_POD_NAMESPACE} is missing, so nobody knows whose pod this is; the CSIDriver object must have "
            "podInfoOnMount: true"
        )
    if pod_namespace != dataset.namespace:
        raise Forbidden(
            f"a pod of namespace {shown(pod_namespace)} may not have dataset {dataset} as an inline volume; use a "
            "dataset of its own namespace, or a PersistentVolume made by the cluster's administrator"
        )


def check_sub_path(value: str) -> str:
    """Return a path inside a dataset without slashes at its ends; BadRequest for one that could lead out of it."""
    if not value:
        return ""
    path = value.rstrip("/")
    parts = path.split("/")
    if (
        len(value) > SUB_PATH_CHARACTERS_MAX
        or any(part in {"", ".", ".."} or len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts)
        or any(ord(character) < 0x20 or ord(character) == 0x7F for character in path)
    ):
        raise BadRequest(
            f"{names.CSI_ATTRIBUTE_SUB_PATH} {shown(value)} is not a directory inside the dataset; it must be "
            f"relative, without . and .., at most {SUB_PATH_CHARACTERS_MAX} characters"
        )
    return path


def made_volume_id(dataset: DatasetRef, claim: str) -> str:
    """Return the id of the volume CreateVolume makes for this claim of a dataset."""
    digest = hashlib.sha256(claim.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{dataset}/{digest[:CLAIM_HASH_CHARACTERS]}"
