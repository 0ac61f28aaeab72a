"""oss2 as the store uses it: what it may do by itself, and what its exceptions mean.

Owns how oss2 and requests are set up. Invariants: nothing of the environment is used (proxies, ~/.netrc); no redirect
is followed, since it would carry the session token along; oss2 logs nothing, since its lines hold signed headers.
"""

import logging
import warnings
from enum import Enum, auto
from typing import Any, Final

import requests
import urllib3

from understores.oss_settings import OssKeys, OssMount

with warnings.catch_warnings():
    # Its docstrings have escapes that Python warns of when it compiles them.
    warnings.simplefilter("ignore")
    import oss2
    from oss2.exceptions import ClientError, OssError, RequestError, ServerError

__all__ = ["ERRORS", "Fault", "ServerError", "bucket", "fault", "part", "session"]

CONNECT_SECONDS: Final = 5.0
STALL_SECONDS = 15.0

ERRORS: Final = (OssError, requests.RequestException, urllib3.exceptions.HTTPError)
"""Everything that oss2's calls and reading their bodies raise."""

logging.getLogger("oss2").setLevel(logging.CRITICAL + 1)


class Fault(Enum):
    """Why there is no answer, or not all of it."""

    UNREACHABLE = auto()
    CUT = auto()
    REDIRECTED = auto()
    UNSENDABLE = auto()


def session(connections: int) -> Any:
    """HTTP connections that buckets with different credentials share."""
    opened = oss2.Session(pool_size=connections)
    opened.session.trust_env = False
    opened.session.max_redirects = 0
    return opened


def bucket(mount: OssMount, keys: OssKeys | None, connections: Any) -> Any:
    """oss2's bucket; without keys its requests are not signed."""
    auth: Any = oss2.AnonymousAuth()
    if keys is not None:
        provider = oss2.credentials.StaticCredentialsProvider(
            keys.access_key_id, keys.access_key_secret, keys.security_token
        )
        auth = oss2.ProviderAuthV4(provider)
    return oss2.Bucket(
        auth,
        mount.endpoint,
        mount.bucket,
        region=mount.region,
        session=connections,
        connect_timeout=(CONNECT_SECONDS, STALL_SECONDS),
        # In Python it would be slow; ETag, lengths and Content-MD5 do its work.
        enable_crc=False,
    )


def part(number: int, etag: str) -> Any:
    """A part as `complete_multipart_upload` wants it."""
    return oss2.models.PartInfo(number, etag)


def fault(error: Exception) -> Fault:
    """What one of `ERRORS` without an answer means."""
    cause = error.exception if isinstance(error, RequestError) else error
    if isinstance(cause, requests.TooManyRedirects):
        return Fault.REDIRECTED
    if isinstance(cause, (requests.exceptions.InvalidHeader, ClientError)):
        return Fault.UNSENDABLE
    if isinstance(cause, (requests.exceptions.ChunkedEncodingError, urllib3.exceptions.ProtocolError)):
        return Fault.CUT
    return Fault.UNREACHABLE
