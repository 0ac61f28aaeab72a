"""What an `oss://` mount says: bucket, prefix, endpoint, region, credentials.

Owns the option names (JindoFS's and Fluid's `fs.oss.…` and short ones) and their checks. Invariant: values of
credentials are in no repr and no message.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from understores.errors import InvalidMount
from understores.options import all_names, checked_endpoint, checked_prefix, option, spelled

_SPELLINGS: Final = spelled("fs.oss.", "endpoint", "region", "accessKeyId", "accessKeySecret", "securityToken")
OPTION_NAMES: Final = all_names(_SPELLINGS)

# https://www.alibabacloud.com/help/en/oss/user-guide/bucket-naming-conventions
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_REGION_IN_HOST: Final = re.compile(r"(?:.*[.-])?oss-([a-z]{2}-[a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com")


@dataclass(frozen=True, slots=True)
class OssKeys:
    """Credentials of one moment; None in their place means unsigned requests (a public bucket)."""

    access_key_id: str
    access_key_secret: str = field(repr=False)
    security_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class OssMount:
    """A validated mount; `prefix` is empty or ends in a slash."""

    bucket: str
    prefix: str
    region: str
    endpoint: str

    @property
    def url(self) -> str:
        """The mount as a message shows it."""
        return f"oss://{self.bucket}/{self.prefix}"


def parse_mount(mount_point: str, options: Mapping[str, str]) -> OssMount:
    """Check `oss://bucket/prefix` and its options; InvalidMount names the field that is wrong.

    `oss://bucket.endpoint/prefix`, as JindoFS takes it too, names the endpoint instead of the option.
    """
    parts = urlsplit(mount_point)
    bucket, _, host = parts.netloc.partition(".")
    if not _BUCKET.fullmatch(bucket) or parts.query or parts.fragment:
        raise InvalidMount(f"mountPoint {mount_point!r} is not usable; write oss://bucket/prefix.")
    prefix = checked_prefix(mount_point, unquote(parts.path))
    named = _option(options, "endpoint") or host
    if not named:
        raise InvalidMount("option 'fs.oss.endpoint' is missing; write e.g. oss-cn-hangzhou-internal.aliyuncs.com.")
    endpoint = checked_endpoint(named, name="fs.oss.endpoint")
    if urlsplit(endpoint).path:
        raise InvalidMount(f"option 'fs.oss.endpoint' is {named!r}; write a host, without a path behind it.")
    region = _option(options, "region").removeprefix("oss-")
    if not region:
        found = _REGION_IN_HOST.fullmatch(urlsplit(endpoint).hostname or "")
        if found is None:
            raise InvalidMount(
                f"option 'fs.oss.region' is missing: endpoint {named!r} does not name the region, which signatures "
                "need; write e.g. cn-hangzhou."
            )
        region = found[1]
    return OssMount(bucket, prefix, region, endpoint)


def parse_keys(options: Mapping[str, str]) -> OssKeys | None:
    """Credentials among `options`, or None when there are none; InvalidMount when a part is missing."""
    key_id, secret, token = (_option(options, name) for name in ("accessKeyId", "accessKeySecret", "securityToken"))
    if bool(key_id) != bool(secret) or (token and not key_id):
        missing = "accessKeySecret" if key_id else "accessKeyId"
        raise InvalidMount(
            f"option 'fs.oss.{missing}' is missing; give both accessKeyId and accessKeySecret, or neither."
        )
    return OssKeys(key_id, secret, token) if key_id else None


def _option(options: Mapping[str, str], name: str) -> str:
    return option(options, _SPELLINGS[name])
