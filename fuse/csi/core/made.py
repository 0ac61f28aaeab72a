"""Volumes CreateVolume makes: a name for a dataset that is there already.

Owns when a repeated call is the same call. A dataset has no quota: the size a claim asks for is remembered, so that
one name does not get two sizes, and limits nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from api import names
from fuse.csi.core import capabilities, volumes
from fuse.csi.core.capabilities import Capability
from fuse.csi.core.owners import owner_of
from fuse.csi.core.volumes import DatasetRef, shown
from fuse.csi.errors import BadRequest, Conflict

PARAMETER_CLAIM_NAMESPACE: Final = "csi.storage.k8s.io/pvc/namespace"
"""What the external-provisioner tells with --extra-create-metadata."""
NAME_CHARACTERS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class MadeVolume:
    """One made volume. Sizes in bytes; 0 = not asked for."""

    name: str
    volume_id: str
    namespace: str
    dataset: str
    sub_path: str
    required_bytes: int
    limit_bytes: int
    uid: int = 0
    gid: int = 0

    @property
    def context(self) -> dict[str, str]:
        """The volumeAttributes of its PersistentVolume."""
        context = {names.CSI_ATTRIBUTE_NAMESPACE: self.namespace, names.CSI_ATTRIBUTE_DATASET: self.dataset}
        if self.sub_path:
            context[names.CSI_ATTRIBUTE_SUB_PATH] = self.sub_path
        for key, number in ((names.CSI_ATTRIBUTE_UID, self.uid), (names.CSI_ATTRIBUTE_GID, self.gid)):
            if number:
                context[key] = str(number)
        return context

    @property
    def ref(self) -> DatasetRef:
        """The dataset it is a name for."""
        return DatasetRef(self.namespace, self.dataset)


def asked_for(
    name: str,
    parameters: Mapping[str, str],
    wanted: Sequence[Capability],
    *,
    required_bytes: int,
    limit_bytes: int,
    has_source: bool,
) -> MadeVolume:
    """Return the volume a CreateVolume asks for; BadRequest names the field that is wrong."""
    if not name or len(name) > NAME_CHARACTERS_MAX:
        raise BadRequest(f"name {shown(name)} is not taken; it must have 1 to {NAME_CHARACTERS_MAX} characters")
    if not wanted:
        raise BadRequest("volume_capabilities is empty; it must name at least one access mode and the type mount")
    for capability in wanted:
        capabilities.check(capability)
    if has_source:
        raise BadRequest("volume_content_source is not taken, datasets are neither cloned nor restored; leave it out")
    if required_bytes < 0 or limit_bytes < 0 or (limit_bytes and limit_bytes < required_bytes):
        raise BadRequest(
            f"capacity_range {required_bytes} to {limit_bytes} bytes is empty; limit_bytes must be 0, or at least "
            "required_bytes"
        )
    volumes.check_keys("parameters", parameters)
    namespace = parameters.get(names.CSI_ATTRIBUTE_NAMESPACE) or parameters.get(PARAMETER_CLAIM_NAMESPACE, "")
    dataset = parameters.get(names.CSI_ATTRIBUTE_DATASET, "")
    if not dataset:
        raise BadRequest(
            f"parameters.{names.CSI_ATTRIBUTE_DATASET} is missing; the StorageClass must name the Dataset its claims "
            "are of"
        )
    ref = volumes.dataset_ref(namespace, dataset)
    sub_path = volumes.check_sub_path(parameters.get(names.CSI_ATTRIBUTE_SUB_PATH, ""))
    owner = owner_of(parameters, "")
    made_id = volumes.made_volume_id(ref, name)
    return MadeVolume(
        name, made_id, ref.namespace, ref.name, sub_path, required_bytes, limit_bytes, owner.uid, owner.gid
    )


def check_same(known: MadeVolume, asked: MadeVolume) -> None:
    """Conflict when a name that is taken is asked for with other parameters or another size."""
    if known.context != asked.context:
        raise Conflict(f"volume name {shown(asked.name)} is taken for dataset {known.ref}, not for {asked.ref}")
    if (known.required_bytes, known.limit_bytes) != (asked.required_bytes, asked.limit_bytes):
        raise Conflict(
            f"volume name {shown(asked.name)} is taken with capacity {known.required_bytes} to {known.limit_bytes} "
            f"bytes, not {asked.required_bytes} to {asked.limit_bytes}"
        )
