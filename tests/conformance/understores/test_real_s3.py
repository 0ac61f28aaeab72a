"""What only a real S3 server shows (SeaweedFS): it checks signatures itself, refuses in its own words, and keeps keys
in directories, so that any order of calls has to be tried."""

import io
import random
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.builders.real_seaweedfs import RealSeaweedFS
from understores.credentials import SecretOptions
from understores.errors import AccessDenied, BucketNotFound, NotFound
from understores.registry import open_store

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("default")]


@pytest.fixture
def mount_point(real_seaweedfs: RealSeaweedFS) -> Iterator[str]:
    yield f"s3://{real_seaweedfs.bucket}/{uuid4().hex}/some prefix/ü+%41"


async def listed(store: Any) -> list[str]:
    return [info.key async for page in store.list() for info in page]


async def test_every_kind_of_request_is_signed_as_the_server_wants_it(
    real_seaweedfs: RealSeaweedFS, mount_point: str
) -> None:
    store = open_store(mount_point, real_seaweedfs.options(), SecretOptions())
    for key in ("a b+c", "back\\slash", "ä/ö=&,;:@$", "x~*'(1)!"):
        info = await store.put(key, io.BytesIO(b"bytes"), 5)
        buffer = bytearray(3)
        await store.get_range(key, 1, memoryview(buffer), etag=info.etag)
        assert bytes(buffer) == b"yte"
        assert (await store.copy(key, f"{key} copied")).size_bytes == 5
        await store.delete(f"{key} copied")
    assert await listed(store) == ["a b+c", "back\\slash", "x~*'(1)!", "ä/ö=&,;:@$"]
    await store.close()


@pytest.mark.parametrize("wrong", [{"accessKeyId": "nobody"}, {"accessKeySecret": "canary-secret"}])
async def test_wrong_credentials_say_what_is_wrong(
    real_seaweedfs: RealSeaweedFS, mount_point: str, wrong: dict[str, str]
) -> None:
    store = open_store(mount_point, {**real_seaweedfs.options(), **wrong}, SecretOptions())
    for act in (lambda: listed(store), lambda: store.put("k", io.BytesIO(b"x"), 1), lambda: store.head("k")):
        with pytest.raises(AccessDenied) as error:
            await act()
        assert "refused access" in error.value.message and "canary" not in error.value.message
    await store.close()


async def test_without_credentials_access_is_refused(real_seaweedfs: RealSeaweedFS, mount_point: str) -> None:
    store = open_store(mount_point, {"endpoint": real_seaweedfs.endpoint}, SecretOptions())
    for act in (lambda: listed(store), lambda: store.put("k", io.BytesIO(b"x"), 1)):
        with pytest.raises(AccessDenied):
            await act()
    await store.close()


async def test_a_missing_bucket_has_one_clear_sentence(real_seaweedfs: RealSeaweedFS) -> None:
    store = open_store("s3://no-such-bucket", real_seaweedfs.options(), SecretOptions())
    with pytest.raises(BucketNotFound, match=r"^the bucket 'no-such-bucket' does not exist at http://"):
        await listed(store)
    await store.close()


async def test_markers_and_names_that_begin_alike_do_not_stop_a_listing(real_seaweedfs: RealSeaweedFS) -> None:
    top = uuid4().hex
    for name in ("p/", "p/empty-dir/", "p/x", "p-other/y", "p"):
        real_seaweedfs.write(f"{top}/{name}", b"")
    store = open_store(f"s3://{real_seaweedfs.bucket}/{top}/p/", real_seaweedfs.options(), SecretOptions())
    assert await listed(store) == ["empty-dir/", "x"]
    await store.close()


# Names around the slash in the order of bytes, and some of which one is the directory of another.
NAMES = ("a", "b", "a-", "a.", "a b", "ab", "a0", "ä", "a+", "%41", "x~*'(1)", "\\")


@pytest.mark.parametrize("seed", range(4))
async def test_random_calls_give_what_a_dictionary_gives(
    real_seaweedfs: RealSeaweedFS, mount_point: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understores.s3_listing.PAGE_KEYS", 4)
    rng = random.Random(seed)
    store = open_store(mount_point, real_seaweedfs.options(), SecretOptions())
    model: dict[str, bytes] = {}

    def new_key() -> str:
        return "/".join(rng.choices(NAMES, k=rng.randrange(1, 4)))

    for _ in range(400):
        key = rng.choice(sorted(model)) if model and rng.random() < 0.6 else new_key()
        match rng.choice(["put", "put", "delete", "copy", "read", "list"]):
            case "put":
                model[key] = rng.randbytes(rng.choice([0, 5, 70_000]))
                await store.put(key, io.BytesIO(model[key]), len(model[key]))
            case "delete":
                await store.delete(key)
                model.pop(key, None)
            case "copy" if key in model and (target := new_key()) != key:
                await store.copy(key, target)
                model[target] = model[key]
            case "read" if key in model:
                info = await store.head(key)
                buffer = bytearray(info.size_bytes)
                await store.get_range(key, 0, memoryview(buffer), etag=info.etag)
                assert buffer == model[key], key
            case "read":
                with pytest.raises(NotFound):
                    await store.head(key)
            case "list":
                assert await listed(store) == sorted(model)
                after = [info.key async for page in store.list(start_after=key) for info in page]
                assert after == [one for one in sorted(model) if one > key]
    await store.close()
