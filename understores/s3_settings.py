"""What an `s3://` mount says: bucket, prefix, endpoint, credentials.

Owns the option names (Fluid's and JindoFS's `fs.s3.…` and short ones) and their checks. Invariant: values of
credentials are in no repr and no message.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from understores.errors import InvalidMount
from understores.options import all_names, checked_endpoint, checked_prefix, flag, option, spelled

DEFAULT_REGION: Final = "us-east-1"

_SPELLINGS: Final = spelled(
    "fs.s3.", "endpoint", "region", "accessKeyId", "accessKeySecret", "sessionToken", "virtualHostedStyle"
)
OPTION_NAMES: Final = all_names(_SPELLINGS)


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

    @property
    def url(self) -> str:
        """The mount as a message shows it."""
        return f"s3://{self.bucket}/{self.prefix}"


def parse_mount(mount_point: str, options: Mapping[str, str]) -> S3Mount:
    """Check `s3://bucket/prefix` and its options; InvalidMount names the field that is wrong."""
    parts = urlsplit(mount_point)
    bucket = parts.netloc
    if not bucket or "@" in bucket or ":" in bucket or parts.query or parts.fragment:
        raise InvalidMount(f"mountPoint {mount_point!r} is not usable; write s3://bucket/prefix.")
    prefix = checked_prefix(mount_point, unquote(parts.path))
    region = _option(options, "region") or DEFAULT_REGION
    endpoint = checked_endpoint(_option(options, "endpoint") or f"https://s3.{region}.amazonaws.com")
    hosted = flag("virtualHostedStyle", _option(options, "virtualHostedStyle"))
    scheme, _, rest = endpoint.partition("://")
    bucket_url = f"{scheme}://{bucket}.{rest}" if hosted else f"{endpoint}/{bucket}"
    return S3Mount(bucket, prefix, region, bucket_url, endpoint, hosted)


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
    return option(options, _SPELLINGS[name])
