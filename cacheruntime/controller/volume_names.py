"""Names of the PersistentVolumes the controller makes. Pure."""

import hashlib


def volume_name(namespace: str, name: str) -> str:
    """Return the PV's name: Fluid's `<namespace>-<name>`, shortened with a hash beyond 63 characters."""
    full = f"{namespace}-{name}"
    if len(full) <= 63:
        return full
    return f"{full[:50]}-{hashlib.sha256(full.encode()).hexdigest()[:12]}"
