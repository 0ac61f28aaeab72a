"""Where a credential is looked for: in a folder of folders, or side by side in a mounted Secret of copies."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.credentials import KEY_CHARACTERS_MAX, credential_key, credential_path, key_prefix
from understores.credentials import SecretOptions
from understores.errors import AccessDenied

LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
NAME = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,240}[a-z0-9])?", fullmatch=True)
KEY = st.from_regex(r"[-._a-zA-Z0-9]{1,250}", fullmatch=True)
WHERE = st.tuples(LABEL, NAME, KEY)


@given(WHERE, WHERE)
def test_different_credentials_have_different_keys(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    keys = [credential_key(credential_path(*where)) for where in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    for key, (namespace, _, _) in zip(keys, (one, other), strict=True):
        assert len(key) <= KEY_CHARACTERS_MAX
        assert key.startswith(key_prefix(namespace))
    assert keys[0].startswith(key_prefix(other[0])) == (one[0] == other[0])


def test_a_mounted_secret_of_copies_is_read_and_its_swap_seen(tmp_path: Path) -> None:
    options = SecretOptions(tmp_path, {"fs.s3.accessKeyId": "team-a/keys/id"})
    with pytest.raises(AccessDenied, match="team-a/keys/id, cannot be read"):
        options.values()
    for version in ("first", "second"):
        # As kubelet does: a folder a version, and one link that is swapped.
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "team-a_keys_id").write_text(version)
        (tmp_path / "..new").symlink_to(f"..{version}")
        (tmp_path / "..new").replace(tmp_path / "..data")
        if version == "first":
            (tmp_path / "team-a_keys_id").symlink_to("..data/team-a_keys_id")
        assert options.values() == {"fs.s3.accessKeyId": version}
    assert options.changes == 1


def test_a_folder_of_folders_comes_first(tmp_path: Path) -> None:
    (tmp_path / "team-a" / "keys").mkdir(parents=True)
    (tmp_path / "team-a" / "keys" / "id").write_text("of the folder")
    (tmp_path / "team-a_keys_id").write_text("of the Secret")
    assert SecretOptions(tmp_path, {"id": "team-a/keys/id"}).values() == {"id": "of the folder"}
