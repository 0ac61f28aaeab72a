"""What a part of ours asked an API server for, by the server's audit log; and what it may ask for, by its manifests."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

LOG = "audit.log"
Right = tuple[str, str, str]
"""Verb, API group, resource (with its subresource)."""


@dataclass(frozen=True)
class Call:
    """One answered request."""

    verb: str
    group: str
    resource: str
    name: str
    code: int

    @property
    def right(self) -> Right:
        """What is needed to make it."""
        return (self.verb, self.group, self.resource)


def flags(folder: Path, *groups: str, users: Sequence[str] = ()) -> list[str]:
    """Flags of kube-apiserver: every answered request of these users and groups, and nobody else's, is in `LOG`."""
    policy = folder / "audit-policy.yaml"
    seen = [
        {"level": "Metadata", key: list(names)} for key, names in (("userGroups", groups), ("users", users)) if names
    ]
    rules = [*seen, {"level": "None"}]
    body = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
    policy.write_text(yaml.safe_dump(body))
    return [f"--audit-policy-file={policy}", f"--audit-log-path={folder / LOG}", "--audit-log-mode=blocking"]


def position(log: Path) -> int:
    """Where the log ends now."""
    return log.stat().st_size if log.exists() else 0


def calls(log: Path, since: int = 0, user: str = "") -> Iterator[Call]:
    """The requests after a position, of one user if one is named."""
    with log.open(encoding="utf-8") as file:
        file.seek(since)
        for line in file:
            event = json.loads(line)
            if user and user != event["user"]["username"]:
                continue
            about = event.get("objectRef") or {}
            resource = "/".join(filter(None, (about.get("resource", ""), about.get("subresource", ""))))
            code = int(event["responseStatus"].get("code", 0))
            yield Call(event["verb"], about.get("apiGroup", ""), resource, about.get("name", ""), code)


def granted(*files: Path) -> set[Right]:
    """Every right that roles in these files give."""
    return {
        (verb, group, resource)
        for file in files
        for part in yaml.safe_load_all(file.read_text())
        for rule in part.get("rules", ())
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
