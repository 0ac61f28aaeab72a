"""Copies of what Datasets name: where they are, that they are not written twice, and that they go."""

import base64
from pathlib import Path
from typing import Any

import pytest

from cacheruntime.controller.credentials import Credentials, Folder, MirrorSecret, SecretProblem
from kube.errors import Invalid, NotFound, Unavailable
from kube.resources import SECRETS, Resource


class FakeSecrets:
    """Secrets of an API server, and the requests that were made."""

    def __init__(self) -> None:
        self.data: dict[tuple[str, str], dict[str, str]] = {}
        self.made: list[str] = []
        self.failure: Exception | None = None

    def put(self, namespace: str, name: str, **values: str) -> None:
        self.data[namespace, name] = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}

    async def get(self, resource: Resource, name: str, namespace: str) -> dict[str, Any]:
        assert resource is SECRETS
        self.made.append(f"get {namespace}/{name}")
        if (namespace, name) not in self.data:
            raise NotFound(404, "NotFound", "not there")
        return {"data": dict(self.data[namespace, name])}

    async def create(self, resource: Resource, body: dict[str, Any], namespace: str) -> dict[str, Any]:
        name = body["metadata"]["name"]
        self.made.append(f"create {namespace}/{name}")
        self.data[namespace, name] = {}
        return body

    async def patch(self, resource: Resource, name: str, body: dict[str, Any], namespace: str) -> dict[str, Any]:
        self.made.append(f"patch {namespace}/{name}")
        if self.failure is not None:
            raise self.failure
        kept = {**self.data[namespace, name], **body["data"]}
        self.data[namespace, name] = {key: value for key, value in kept.items() if value is not None}
        return {"data": dict(self.data[namespace, name])}


@pytest.fixture
def secrets() -> FakeSecrets:
    made = FakeSecrets()
    made.put("team-a", "keys", id="one", key="two", unasked="three")
    made.put("team-b", "keys", id="theirs")
    return made


def credentials(secrets: FakeSecrets, folder: Path) -> Credentials:
    client: Any = secrets
    return Credentials(client, [Folder(folder), MirrorSecret(client, "sys", "copies")])


def mirrored(secrets: FakeSecrets) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secrets.data["sys", "copies"].items()}


async def test_only_what_is_named_is_copied_and_nothing_is_written_twice(secrets: FakeSecrets, tmp_path: Path) -> None:
    copies = credentials(secrets, tmp_path)
    await copies.write("team-a", [("keys", "id"), ("keys", "key")])
    assert mirrored(secrets) == {"team-a_keys_id": "one", "team-a_keys_key": "two"}
    file = tmp_path / "team-a" / "keys" / "id"
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("one", 0o600)
    assert not (tmp_path / "team-a" / "keys" / "unasked").exists()
    secrets.made.clear()
    await copies.write("team-a", [("keys", "id"), ("keys", "key")])
    assert secrets.made == ["get team-a/keys"]
    secrets.put("team-a", "keys", id="new", key="two")
    await copies.write("team-a", [("keys", "id")])
    assert mirrored(secrets)["team-a_keys_id"] == "new" and file.read_text() == "new"


async def test_what_nobody_names_goes_and_other_namespaces_stay(secrets: FakeSecrets, tmp_path: Path) -> None:
    copies = credentials(secrets, tmp_path)
    await copies.write("team-a", [("keys", "id"), ("keys", "key")])
    await copies.write("team-b", [("keys", "id")])
    await copies.keep_only("team-a", {("keys", "key")})
    assert mirrored(secrets).keys() == {"team-a_keys_key", "team-b_keys_id"}
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == {
        "team-a/keys/key",
        "team-b/keys/id",
    }
    secrets.made.clear()
    await copies.keep_only("team-a", {("keys", "key")})
    assert not secrets.made


async def test_after_a_write_of_unknown_outcome_it_looks_again(secrets: FakeSecrets, tmp_path: Path) -> None:
    copies = credentials(secrets, tmp_path)
    await copies.write("team-a", [("keys", "id")])
    secrets.failure = Unavailable(503, "Unavailable", "gone")
    with pytest.raises(Unavailable):
        await copies.write("team-b", [("keys", "id")])
    secrets.failure = None
    await copies.write("team-b", [("keys", "id")])
    assert secrets.made[-2:] == ["get sys/copies", "patch sys/copies"]
    assert mirrored(secrets)["team-b_keys_id"] == "theirs"


async def test_what_is_missing_or_does_not_fit_is_said(secrets: FakeSecrets, tmp_path: Path) -> None:
    copies = credentials(secrets, tmp_path)
    with pytest.raises(SecretProblem, match="Secret team-a/absent, which does not exist; create it"):
        await copies.write("team-a", [("absent", "id")])
    with pytest.raises(SecretProblem, match=r"names key 'nope' of Secret team-b/keys, which has only \['id'\]"):
        await copies.write("team-b", [("keys", "nope")])
    secrets.failure = Invalid(422, "Invalid", "Too long: may not be more than 1048576 bytes")
    with pytest.raises(SecretProblem, match="Secret sys/copies takes no more credentials"):
        await copies.write("team-a", [("keys", "id")])
