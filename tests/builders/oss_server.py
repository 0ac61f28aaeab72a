"""An OSS server in memory that verifies signature V4 and STS tokens.

Written from the protocol's documents, with no code of oss2: the two check each other. Path style, as oss2 addresses
servers by IP. https://www.alibabacloud.com/help/en/oss/developer-reference/recommend-to-use-signature-version-4
"""

import hashlib
import hmac
from base64 import b64decode
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Final
from urllib.parse import quote, unquote, unquote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web

from tests.builders.loopback_server import LoopbackServer

REGION: Final = "cn-hangzhou"
_SIGNED_ALWAYS: Final = frozenset({"content-type", "content-md5"})
_SKEW_MAX: Final = timedelta(minutes=15)


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass(slots=True)
class OssObject:
    body: bytes
    etag: str
    modified: datetime


@dataclass(slots=True)
class OssUser:
    secret: str
    token: str = ""
    expires_at: datetime | None = None


@dataclass
class OssServer:
    """Buckets, users and open uploads; `calls` counts requests by what they do."""

    users: dict[str, OssUser] = field(default_factory=dict)
    public: set[str] = field(default_factory=set)
    buckets: dict[str, dict[str, OssObject]] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    keys_seen: Counter[str] = field(default_factory=Counter)

    def server(self) -> LoopbackServer:
        return LoopbackServer(self.handle)

    def write(self, bucket: str, key: str, body: bytes, etag: str | None = None) -> OssObject:
        made = OssObject(body, etag or hashlib.md5(body).hexdigest().upper(), datetime.now(UTC))
        self.buckets[bucket][key] = made
        return made

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        try:
            return self._answer(request, body)
        except Refused as refused:
            self.refused[refused.code] += 1
            xml = f"<?xml version='1.0'?><Error><Code>{refused.code}</Code><Message>canary-of-server</Message></Error>"
            return web.Response(status=refused.status, text=xml, content_type="application/xml")

    def _answer(self, request: web.BaseRequest, body: bytes) -> web.Response:
        raw_path, _, raw_query = request.raw_path.partition("?")
        query = {
            unquote_plus(name): unquote_plus(value)
            for name, _, value in (one.partition("=") for one in raw_query.split("&") if one)
        }
        bucket, _, key = unquote(raw_path).removeprefix("/").partition("/")
        if bucket not in self.public:
            self._verify(request, bucket, key, query)
        if bucket not in self.buckets:
            raise Refused(404, "NoSuchBucket")
        digest = request.headers.get("Content-MD5")
        if digest and b64decode(digest) != hashlib.md5(body).digest():
            raise Refused(400, "InvalidDigest")
        if len(key.encode()) > 1023:
            raise Refused(400, "InvalidObjectName")
        if not key:
            return self._list(bucket, query)
        return self._object(request, bucket, key, query, body)

    # Signature

    def _verify(self, request: web.BaseRequest, bucket: str, key: str, query: dict[str, str]) -> None:
        kind, _, rest = request.headers.get("Authorization", "").partition(" ")
        fields = dict(one.strip().partition("=")[::2] for one in rest.split(","))
        if kind != "OSS4-HMAC-SHA256" or "Credential" not in fields:
            raise Refused(403, "AccessDenied")
        key_id, day, region, product, terminator = fields["Credential"].split("/")
        self.keys_seen[key_id] += 1
        user = self.users.get(key_id)
        if user is None:
            raise Refused(403, "InvalidAccessKeyId")
        if (region, product, terminator) != (REGION, "oss", "aliyun_v4_request"):
            raise Refused(400, "InvalidArgument")
        stamp = request.headers.get("x-oss-date", "")
        moment = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs(datetime.now(UTC) - moment) > _SKEW_MAX or not stamp.startswith(day):
            raise Refused(403, "RequestTimeTooSkewed")
        token = request.headers.get("x-oss-security-token", "")
        if token != user.token:
            raise Refused(403, "InvalidSecurityToken" if token else "InvalidAccessKeyId")
        if user.expires_at is not None and datetime.now(UTC) > user.expires_at:
            raise Refused(403, "SecurityTokenExpired")
        additional = [one for one in fields.get("AdditionalHeaders", "").split(";") if one]
        headers = {name.lower(): value.strip() for name, value in request.headers.items()}
        wanted = signature(
            user.secret, request.method, f"/{bucket}/{key}", query, headers, additional, stamp=stamp, region=region
        )
        if not hmac.compare_digest(wanted, fields.get("Signature", "")):
            raise Refused(403, "SignatureDoesNotMatch")

    # Buckets

    def _list(self, bucket: str, query: dict[str, str]) -> web.Response:
        if query.get("list-type") != "2":
            raise Refused(400, "InvalidArgument")
        self.calls["list"] += 1
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = max(query.get("start-after", ""), query.get("continuation-token", ""))
        limit = int(query.get("max-keys", "100"))
        found: dict[str, OssObject | None] = {}
        for key in sorted(self.buckets[bucket]):
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                shared = prefix + rest[: rest.index(delimiter) + 1]
                if shared > after and not after.startswith(shared):
                    found[shared] = None
            elif key > after:
                found[key] = self.buckets[bucket][key]
        names = list(found)[:limit]
        is_truncated = len(found) > limit
        parts = [
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><EncodingType>url</EncodingType>',
            f"<Name>{bucket}</Name><IsTruncated>{str(is_truncated).lower()}</IsTruncated>",
        ]
        if is_truncated:
            parts.append(f"<NextContinuationToken>{quote(names[-1], safe='')}</NextContinuationToken>")
        for name in names:
            written, one = escape(quote(name, safe="")), found[name]
            if one is None:
                parts.append(f"<CommonPrefixes><Prefix>{written}</Prefix></CommonPrefixes>")
                continue
            modified = one.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z")
            parts.append(
                f"<Contents><Key>{written}</Key><LastModified>{modified}</LastModified><ETag>&quot;{one.etag}&quot;</ETag>"
                f"<Type>Normal</Type><Size>{len(one.body)}</Size><StorageClass>Standard</StorageClass></Contents>"
            )
        parts.append("</ListBucketResult>")
        return web.Response(text="".join(parts), content_type="application/xml")

    # Objects

    def _object(
        self, request: web.BaseRequest, bucket: str, key: str, query: dict[str, str], body: bytes
    ) -> web.Response:
        method, objects = request.method, self.buckets[bucket]
        if method == "POST" and "uploads" in query:
            upload = f"upload-{len(self.uploads)}-{self.calls.total()}"
            self.uploads[upload] = {}
            return _xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        if "uploadId" in query:
            return self._part(request, bucket, key, query, body)
        if method == "PUT":
            if "x-oss-copy-source" in request.headers:
                source, made_from = self._copied(request)
                self.calls["copy"] += 1
                made = self.write(bucket, key, source, made_from.etag)
                return _xml(f"<CopyObjectResult><ETag>&quot;{made.etag}&quot;</ETag></CopyObjectResult>", made)
            self.calls["put"] += 1
            return web.Response(headers=_headers(self.write(bucket, key, body)))
        if method == "DELETE":
            objects.pop(key, None)
            return web.Response(status=204)
        one = objects.get(key)
        if one is None:
            raise Refused(404, "NoSuchKey")
        if method == "HEAD":
            self.calls["head"] += 1
            return web.Response(headers={**_headers(one), "Content-Length": str(len(one.body))})
        return self._get(request, one)

    def _get(self, request: web.BaseRequest, one: OssObject) -> web.Response:
        self.calls["get"] += 1
        if request.headers.get("If-Match", one.etag).strip('"') != one.etag:
            raise Refused(412, "PreconditionFailed")
        first, _, last = request.headers.get("Range", "").removeprefix("bytes=").partition("-")
        start, end = int(first or 0), min(int(last) + 1 if last else len(one.body), len(one.body))
        if start >= len(one.body) or (last and int(last) >= len(one.body)):
            if request.headers.get("x-oss-range-behavior") != "standard":
                return web.Response(body=one.body, headers=_headers(one))
            if start >= len(one.body):
                raise Refused(416, "InvalidRange")
        if not first:
            return web.Response(body=one.body, headers=_headers(one))
        headers = {**_headers(one), "Content-Range": f"bytes {start}-{end - 1}/{len(one.body)}"}
        return web.Response(status=206, body=one.body[start:end], headers=headers)

    def _copied(self, request: web.BaseRequest) -> tuple[bytes, OssObject]:
        bucket, _, key = unquote(request.headers["x-oss-copy-source"]).removeprefix("/").partition("/")
        one = self.buckets.get(bucket, {}).get(key)
        if one is None:
            raise Refused(404, "NoSuchKey")
        if request.headers.get("x-oss-copy-source-if-match", one.etag).strip('"') != one.etag:
            raise Refused(412, "PreconditionFailed")
        first, _, last = request.headers.get("x-oss-copy-source-range", "").removeprefix("bytes=").partition("-")
        return (one.body[int(first) : int(last) + 1] if first else one.body), one

    def _part(
        self, request: web.BaseRequest, bucket: str, key: str, query: dict[str, str], body: bytes
    ) -> web.Response:
        parts = self.uploads.get(query["uploadId"])
        if parts is None:
            raise Refused(404, "NoSuchUpload")
        if request.method == "DELETE":
            del self.uploads[query["uploadId"]]
            return web.Response(status=204)
        if request.method == "PUT":
            is_copy = "x-oss-copy-source" in request.headers
            self.calls["part-copy" if is_copy else "part"] += 1
            part = self._copied(request)[0] if is_copy else body
            parts[int(query["partNumber"])] = part
            etag = hashlib.md5(part).hexdigest().upper()
            if is_copy:
                return _xml(f"<CopyPartResult><ETag>&quot;{etag}&quot;</ETag></CopyPartResult>", etag=etag)
            return web.Response(headers={"ETag": f'"{etag}"'})
        named = [
            (int(one.findtext("PartNumber", "0")), one.findtext("ETag", "").strip('"'))
            for one in ElementTree.fromstring(body).iter("Part")
        ]
        if [(number, hashlib.md5(part).hexdigest().upper()) for number, part in sorted(parts.items())] != named:
            raise Refused(400, "InvalidPart")
        whole = b"".join(part for _, part in sorted(parts.items()))
        del self.uploads[query["uploadId"]]
        self.calls["complete"] += 1
        made = self.write(bucket, key, whole, f"{hashlib.md5(whole).hexdigest().upper()}-{len(named)}")
        return _xml(
            f"<CompleteMultipartUploadResult><ETag>&quot;{made.etag}&quot;</ETag></CompleteMultipartUploadResult>", made
        )


def signature(
    secret: str,
    method: str,
    path: str,
    query: dict[str, str],
    headers: dict[str, str],
    additional: list[str],
    *,
    stamp: str,
    region: str,
) -> str:
    """The V4 signature of a request; `headers` by lower-case names."""
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items())
    signed = sorted(
        name for name in headers if name in _SIGNED_ALWAYS or name.startswith("x-oss-") or name in additional
    )
    request = "\n".join(
        [
            method,
            quote(path, safe="/-_.~"),
            "&".join(f"{name}={value}" if value else name for name, value in pairs),
            *(f"{name}:{headers[name]}" for name in signed),
            "",
            ";".join(sorted(additional)),
            headers.get("x-oss-content-sha256", "UNSIGNED-PAYLOAD"),
        ]
    )
    day = stamp[:8]
    scope = f"{day}/{region}/oss/aliyun_v4_request"
    text = "\n".join(["OSS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"aliyun_v4{secret}".encode()
    for part in (day, region, "oss", "aliyun_v4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def _headers(one: OssObject) -> dict[str, str]:
    return {
        "ETag": f'"{one.etag}"',
        "Last-Modified": format_datetime(one.modified, usegmt=True),
        "Content-Type": "application/octet-stream",
    }


def _xml(text: str, one: OssObject | None = None, *, etag: str = "") -> web.Response:
    headers = {"ETag": f'"{one.etag if one else etag}"'} if one or etag else {}
    return web.Response(text=f"<?xml version='1.0'?>{text}", content_type="application/xml", headers=headers)
