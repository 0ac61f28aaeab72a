"""Certificate folders that change: the files in use belong together, whatever is written in between."""

from pathlib import Path

import pytest

from api.trust.files import REFUSED_FILES, TrustError, TrustFiles
from api.trust.identity import METADATA_SERVER, Identity, NotAnIdentity, Role, parse_identity
from headrace.trust.authority import TrustAuthority

N1 = Identity(Role.WORKER, "n1")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


def test_an_identity_is_a_role_and_a_name() -> None:
    assert parse_identity("headrace://worker/n1") == N1
    assert str(N1) == "headrace://worker/n1"
    assert N1.server_name == "n1.worker.headrace.internal"
    assert METADATA_SERVER.server_name == "metadata.headrace.internal"
    for text in (
        "worker/n1",
        "headrace://worker/",
        "headrace://king/n1",
        "headrace://worker/N_1",
        "headrace://worker/a/b",
    ):
        with pytest.raises(NotAnIdentity):
            parse_identity(text)


def test_half_of_a_change_is_not_taken(tmp_path: Path) -> None:
    authority = TrustAuthority(tmp_path / "ca")
    folder, other = tmp_path / "n1", tmp_path / "other"
    authority.issue(N1, folder)
    authority.issue(N1, other)
    files = TrustFiles(folder, clock=Clock())
    first = files.current()
    assert (files.identity, first.number) == (N1, 1)
    before = REFUSED_FILES._value.get()
    (folder / "tls.key").write_bytes((other / "tls.key").read_bytes())
    assert files.current() is first and files.current() is first
    assert REFUSED_FILES._value.get() == before + 1, "said and counted once"
    (folder / "tls.crt").write_bytes((other / "tls.crt").read_bytes())
    assert files.current().number == 2
    assert files.server_context() is files.server_context()


def test_another_identity_is_not_taken(tmp_path: Path) -> None:
    authority = TrustAuthority(tmp_path / "ca")
    folder = tmp_path / "n1"
    authority.issue(N1, folder)
    files = TrustFiles(folder, clock=Clock())
    authority.issue(Identity(Role.ADMIN, "main"), folder)
    assert files.current().number == 1 and files.identity == N1


@pytest.mark.parametrize("name", ["ca.crt", "tls.crt", "tls.key"])
def test_what_is_not_there_or_makes_no_sense_is_named(tmp_path: Path, name: str) -> None:
    authority = TrustAuthority(tmp_path / "ca")
    folder = tmp_path / "n1"
    authority.issue(N1, folder)
    (folder / name).write_text("-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n")
    with pytest.raises(TrustError) as caught:
        TrustFiles(folder)
    assert "canary" not in str(caught.value)
    (folder / name).unlink()
    with pytest.raises(TrustError, match=name):
        TrustFiles(folder)


def test_certificates_are_kept_while_they_are_good(tmp_path: Path) -> None:
    authority = TrustAuthority(tmp_path / "ca")
    assert authority.issue(N1, tmp_path / "n1")
    assert not TrustAuthority(tmp_path / "ca").issue(N1, tmp_path / "n1")
    authority.add_issuer()
    assert authority.issue(N1, tmp_path / "n1"), "of an authority that is on its way out"
    assert (tmp_path / "n1" / "tls.key").stat().st_mode & 0o777 == 0o600
    assert len(list(authority.token_keys.glob("*.pem"))) == 1
    # A crash between the two files of a new issuer.
    (tmp_path / "ca" / "issuer.key").write_bytes((tmp_path / "n1" / "tls.key").read_bytes())
    healed = TrustAuthority(tmp_path / "ca")
    assert healed.issue(N1, tmp_path / "n1") and not healed.issue(N1, tmp_path / "n1")
    TrustFiles(tmp_path / "n1").server_context()
    authority.add_token_key()
    assert authority.forget_token_keys() == 1
