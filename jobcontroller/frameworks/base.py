"""What frameworks share: options' ports and the rule "every pod of every role".

Owns only what more than one framework uses. The protocol they follow is core/framework.py's `Framework`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jobcontroller.core.framework import RoleCounts


def all_succeeded(roles: Mapping[str, RoleCounts], of: Iterable[str] | None = None) -> bool:
    """Whether every pod of the roles `of` (default: all) that the job has succeeded; False when it has none."""
    deciding = [counts for role, counts in roles.items() if of is None or role in of]
    return bool(deciding) and all(counts.all_succeeded for counts in deciding)
