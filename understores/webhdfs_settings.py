"""What an `hdfs://` or `webhdfs://` mount says: namenodes, path, user or delegation token.

Owns the option names (Hadoop's own, and short ones) and their checks. Invariant: a token is in no repr and no message.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from understores.errors import InvalidMount
from understores.options import all_names, checked_endpoint, option

HTTP_PORT: Final = 9870
"""dfs.namenode.http-address of Hadoop 3."""

_SPELLINGS: Final[dict[str, tuple[str, ...]]] = {
    "httpAddress": ("httpAddress", "dfs.namenode.http-address"),
    "httpsAddress": ("httpsAddress", "dfs.namenode.https-address"),
    "user": ("user", "hadoop.user.name", "HADOOP_USER_NAME"),
    "delegationToken": ("delegationToken", "hadoop.delegation.token"),
}
OPTION_NAMES: Final = all_names(_SPELLINGS)


@dataclass(frozen=True, slots=True)
class HdfsIdentity:
    """Who asks; a delegation token stands for its user."""

    user: str
    delegation_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class HdfsMount:
    """A validated mount; `root` begins with a slash and ends without one, and is "" for all of HDFS."""

    shown: str
    root: str
    namenodes: tuple[str, ...]


def parse_mount(mount_point: str, options: Mapping[str, str]) -> HdfsMount:
    """Check `hdfs://namenode:8020/path` or `webhdfs://namenode:9870/path`; InvalidMount names the field that is wrong.

    WebHDFS is HTTP: with `hdfs://`, whose port speaks another protocol, the option `dfs.namenode.http-address` says
    where it is, and is the namenode's port 9870 otherwise. Several addresses, with commas between them, are the
    namenodes of one highly available name service.
    """
    parts = urlsplit(mount_point)
    root = unquote(parts.path).strip("/")
    is_path = not root or all(name not in ("", ".", "..") for name in root.split("/"))
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not is_path or parts.query or parts.fragment:
        raise InvalidMount(f"mountPoint {mount_point!r} is not usable; write hdfs://namenode:8020/path.")
    plain, secure = _option(options, "httpAddress"), _option(options, "httpsAddress")
    if plain and secure:
        raise InvalidMount("options 'dfs.namenode.http-address' and '…https-address' exclude each other; give one.")
    if not plain and not secure:
        http_port = port if port is not None and parts.scheme == "webhdfs" else HTTP_PORT
        plain = f"[{host}]:{http_port}" if ":" in host else f"{host}:{http_port}"
    name, scheme = ("dfs.namenode.https-address", "https") if secure else ("dfs.namenode.http-address", "http")
    addresses = [one.strip() for one in (secure or plain).split(",") if one.strip()]
    namenodes = tuple(checked_endpoint(one, name=name, default_scheme=scheme) for one in addresses)
    path = f"/{root}" if root else ""
    return HdfsMount(f"{parts.scheme}://{parts.netloc}{path}/", path, namenodes)


def parse_identity(options: Mapping[str, str]) -> HdfsIdentity:
    """Who requests are made as: the token's owner, the named user, or whoever the namenode takes for nobody."""
    return HdfsIdentity(_option(options, "user"), _option(options, "delegationToken"))


def _option(options: Mapping[str, str], name: str) -> str:
    return option(options, _SPELLINGS[name])
