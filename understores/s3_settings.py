"""What an `s3://` mount says: bucket, prefix, endpoint, credentials.

Owns the option names (Fluid's and JindoFS's `fs.s3.…` and short ones) and their checks. Invariant: values of
credentials are in no repr and no message.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from understores.errors import InvalidMount

DEFAULT_REGION: Final = "us-east-1"

_SPELLINGS: Final[dict[str, tuple[str, ...]]] = {
    "endpoint": ("endpoint", "fs.s3.endpoint"),
    "region": ("region", "fs.s3.region"),
    "accessKeyId": ("accessKeyId", "fs.s3.accessKeyId"),
    "accessKeySecret": ("accessKeySecret", "fs.s3.accessKeySecret"),
    "sessionToken": ("sessionToken", "fs.s3.sessionToken"),
    "virtualHostedStyle": ("virtualHostedStyle", "fs.s3.virtualHostedStyle"),
}
OPTION_NAMES: Final = frozenset(name for spellings in _SPELLINGS.values() for name in spellings)


@dataclass(frozen=True, slots=True)
class S3Keys:
    """Credentials of one moment; None in their place means unsigned requests (a public bucket)."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class S3Mount:
    """A validated mount; `bucket_url` has no trailing slash, `prefix` is empty or ends in one."""

    bucket: str
    prefix: str
    region: str
    bucket_url: str
    endpoint: str
    is_virtual_hosted: bool


def parse_mount(mount_point: str, options: Mapping[str, str]) -> S3Mount:
    """Check `s3://bucket/prefix` and its options; InvalidMount names the field that is wrong."""
    parts = urlsplit(mount_point)
    bucket, prefix = parts.netloc, unquote(parts.path).strip("/")
    if not bucket or "@" in bucket or ":" in bucket or parts.query or parts.fragment:
        raise InvalidMount(f"mountPoint {mount_point!r} is not usable; write s3://bucket/prefix.")
    if any(name in ("", ".", "..") for name in prefix.split("/")) and prefix:
        raise InvalidMount(f"mountPoint {mount_point!r} has an empty, '.' or '..' name in its prefix.")
    region = _option(options, "region") or DEFAULT_REGION
    endpoint = _checked_endpoint(_option(options, "endpoint") or f"https://s3.{region}.amazonaws.com")
    hosted = _flag("virtualHostedStyle", _option(options, "virtualHostedStyle"))
    scheme, _, rest = endpoint.partition("://")
    bucket_url = f"{scheme}://{bucket}.{rest}" if hosted else f"{endpoint}/{bucket}"
    return S3Mount(bucket, f"{prefix}/" if prefix else "", region, bucket_url, endpoint, hosted)


def parse_keys(options: Mapping[str, str]) -> S3Keys | None:
    """Credentials among `options`, or None when there are none; InvalidMount when one half is missing."""
    key_id, secret = _option(options, "accessKeyId"), _option(options, "accessKeySecret")
    if bool(key_id) != bool(secret):
        missing = "accessKeySecret" if key_id else "accessKeyId"
        raise InvalidMount(f"option {missing!r} is missing; give both accessKeyId and accessKeySecret, or neither.")
    if not key_id:
        return None
    return S3Keys(key_id, secret, _option(options, "sessionToken"))


def _option(options: Mapping[str, str], name: str) -> str:
    for spelling in _SPELLINGS[name]:
        if value := options.get(spelling, "").strip():
            return value
    return ""


def _checked_endpoint(endpoint: str) -> str:
    url = endpoint if "://" in endpoint else f"https://{endpoint}"
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or "@" in url or "?" in url or "#" in url:
        raise InvalidMount(f"option 'endpoint' is {_shown(endpoint)}; write http://host:port or https://host.")
    return url.rstrip("/")


def _shown(endpoint: str) -> str:
    # user:password@host is the one way a secret gets into an endpoint.
    return "a URL with user and password" if "@" in endpoint else repr(endpoint)


def _flag(name: str, value: str) -> bool:
    if value.lower() not in ("", "true", "false"):
        raise InvalidMount(f"option {name!r} is {value!r}; it must be true or false.")
    return value.lower() == "true"
