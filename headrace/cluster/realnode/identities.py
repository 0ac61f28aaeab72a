"""What our parts on real nodes show each other, brought to them as manifests/components/trust says.

Owns the Secrets of what runs once, and the two folders of every node. Who issued them is `trust/authority.py`'s matter.
Invariant: a node has its own two identities and nobody else's; files are replaced whole, never seen half."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headrace.cluster.realnode.programs import NodeFolder
from headrace.cluster.state import write_private

NAMESPACE = "headrace-system"
#: The user of the worker's container (manifests/base/worker), which has to read its files itself.
WORKER_USER = 65532
FILES = ("ca.crt", "tls.key", "tls.crt")


def secrets(identities: Mapping[str, Path], token_keys: Path) -> Iterator[dict[str, Any]]:
    """The Secrets `headrace-trust-PART` of each part's folder, and the one with the token keys. Reads files."""
    for part, folder in identities.items():
        yield _secret(f"headrace-trust-{part}", {name: folder / name for name in FILES})
    yield _secret("headrace-token-keys", {path.name: path for path in sorted(token_keys.glob("*.pem"))})


def _secret(name: str, files: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {key: base64.b64encode(path.read_bytes()).decode("ascii") for key, path in files.items()},
    }


def bring(node: NodeFolder, *, agent: Path, worker: Path) -> None:
    """Have the node's identities, those of these two folders, where its pods look for them. Also while they run."""
    for source, target, owner in ((agent, node.trust / "trust", 0), (worker, node.trust / "trust-worker", WORKER_USER)):
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in FILES:
            new = (source / name).read_bytes()
            file = target / name
            if not file.exists() or file.read_bytes() != new:
                write_private(file, new, owner=owner)
