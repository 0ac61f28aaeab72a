"""AWS Signature Version 4 of a GET without a body, for the S3 listing.

Pure: the time comes in. Reference: "Authenticating Requests: Using the Authorization Header (AWS Signature
Version 4)" in the S3 API reference; checked in tests against its published example.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from urllib.parse import quote, urlsplit

from understores.s3_settings import S3Keys

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()


def canonical_query(parameters: Sequence[tuple[str, str]]) -> str:
    """Sorted and encoded as the signature wants it; send exactly this text."""
    return "&".join(
        f"{name}={value}"
        for name, value in sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parameters)
    )


def signed_headers(
    url: str, query: str, keys: S3Keys, region: str, now: datetime, *, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Headers of `GET url?query` for S3, `query` as `canonical_query` gives it, `now` in UTC."""
    parts = urlsplit(url)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "host": parts.netloc,
        "x-amz-content-sha256": EMPTY_SHA256,
        "x-amz-date": stamp,
        **(extra or {}),
    }
    if keys.session_token:
        headers["x-amz-security-token"] = keys.session_token
    names = ";".join(sorted(headers))
    request = "\n".join(
        [
            "GET",
            quote(parts.path or "/", safe="/-_.~"),
            query,
            *(f"{name}:{headers[name].strip()}" for name in sorted(headers)),
            "",
            names,
            EMPTY_SHA256,
        ]
    )
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    signature = _sign(_signing_key(keys.secret_access_key, stamp[:8], region), text).hex()
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return {**headers, "authorization": authorization}


def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = _sign(key, part)
    return key


def _sign(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
