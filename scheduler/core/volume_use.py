"""Who uses which claims and disks on which node, and what was promised to pods whose volumes are being bound.

Owns the counts. Does not know storage objects (core/volume_table.py). Invariants: a pod counts from the moment it is
assumed; a promise lives exactly as long as its pod is assumed; a what-if copy never writes into the cluster's own.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.core.pod_volumes import NOTHING_HELD, Attachable, ClaimKey, Disk, HeldVolumes, VolumePlan


@dataclass(slots=True)
class RowVolumes:
    """How many pods of a row use each thing."""

    claims: Counter[ClaimKey] = field(default_factory=Counter)
    disks: Counter[Disk] = field(default_factory=Counter)
    inline: Counter[Attachable] = field(default_factory=Counter)

    def copy(self) -> "RowVolumes":
        """The same counts, to be changed."""
        return RowVolumes(self.claims.copy(), self.disks.copy(), self.inline.copy())


class VolumeUse:
    """See the module's docstring."""

    def __init__(self, base: "VolumeUse | None" = None) -> None:
        """`base`: what a what-if copy starts from."""
        self._rows: dict[int, RowVolumes] = dict(base._rows) if base is not None else {}
        # Rows whose counts belong to `base` until they are written.
        self._shared: set[int] = set(self._rows) if base is not None else set()
        self._users: Counter[ClaimKey] = base._users.copy() if base is not None else Counter()
        self._plans: dict[str, VolumePlan] = dict(base._plans) if base is not None else {}
        self._taken: dict[str, ClaimKey] = dict(base._taken) if base is not None else {}
        self._selected: dict[ClaimKey, str] = dict(base._selected) if base is not None else {}

    def what_if(self) -> "VolumeUse":
        """A copy to place and remove pods on."""
        return VolumeUse(self)

    # ---- pods on rows -----------------------------------------------------------------------

    def add(self, row: int, namespace: str, held: HeldVolumes) -> None:
        """Count a pod on a row."""
        if held is not NOTHING_HELD:
            self._count(row, namespace, held, 1)

    def remove(self, row: int, namespace: str, held: HeldVolumes) -> None:
        """Stop counting a pod that was added to this row."""
        if held is not NOTHING_HELD:
            self._count(row, namespace, held, -1)

    def _count(self, row: int, namespace: str, held: HeldVolumes, by: int) -> None:
        on_row = self._rows.get(row)
        if on_row is None:
            on_row = self._rows[row] = RowVolumes()
        elif row in self._shared:
            on_row = self._rows[row] = on_row.copy()
            self._shared.discard(row)
        for claim in held.claims:
            key = (namespace, claim.name)
            _add(on_row.claims, key, by)
            if not claim.is_ephemeral:
                _add(self._users, key, by)
        for disk in held.disks:
            _add(on_row.disks, disk, by)
        for volume in held.inline:
            _add(on_row.inline, volume, by)
        if not (on_row.claims or on_row.disks or on_row.inline):
            del self._rows[row]

    def on_row(self, row: int) -> RowVolumes | None:
        """What pods of a row use; None for nothing. Not to be changed."""
        return self._rows.get(row)

    def rows_with_disks(self) -> Mapping[int, Counter[Disk]]:
        """Disks in use by row."""
        return {row: held.disks for row, held in self._rows.items() if held.disks}

    def is_used(self, claim: ClaimKey) -> bool:
        """Whether a pod on any node uses a claim (other than one made for it alone)."""
        return claim in self._users

    # ---- promises ---------------------------------------------------------------------------

    def promise(self, uid: str, plan: VolumePlan | None) -> None:
        """Volumes and claims are spoken for by a pod."""
        if plan is None:
            return
        self._plans[uid] = plan
        self._taken.update(plan.bindings)
        self._selected.update(dict.fromkeys(plan.provisions, plan.node))

    def settle(self, uid: str) -> None:
        """The pod is bound, by when the objects say it themselves, or will not be."""
        plan = self._plans.pop(uid, None)
        if plan is None:
            return
        for volume, _ in plan.bindings:
            self._taken.pop(volume, None)
        for claim in plan.provisions:
            self._selected.pop(claim, None)

    def taken_by(self, volume: str) -> ClaimKey | None:
        """The claim a volume is promised to."""
        return self._taken.get(volume)

    def node_for(self, claim: ClaimKey) -> str | None:
        """The node a claim's volume is being made on, or is to be."""
        return self._selected.get(claim)


def _add(counts: Counter[Any], key: Any, by: int) -> None:
    counts[key] += by
    if not counts[key]:
        del counts[key]
