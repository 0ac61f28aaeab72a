"""A web server over files in memory, with the directory pages of nginx, Apache, Python's http.server, or nginx's JSON.

It sends a file piece by piece from what the file is at that moment, as a server over a disk does: a file rewritten
meanwhile is sent mixed.
"""

import hashlib
import html
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Final
from urllib.parse import quote, unquote

from aiohttp import web

from tests.builders.loopback_server import LoopbackServer

PIECE_BYTES: Final = 16 << 10


@dataclass(slots=True)
class ServedFile:
    body: bytes
    modified: datetime

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.body + str(self.modified).encode()).hexdigest()[:16]}"'


@dataclass
class HttpFiles:
    """Files by path, without a slash in front; `root` is a directory that is always there."""

    root: str = ""
    pages: str = "nginx"
    has_ranges: bool = True
    validators: tuple[str, ...] = ("ETag", "Last-Modified")
    head_status: int = 200
    authorization: str = ""
    redirects: dict[str, str] = field(default_factory=dict)
    files: dict[str, ServedFile] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    authorizations: list[str] = field(default_factory=list)
    writes: int = 0
    while_sending: Callable[[str], None] | None = None
    """Called with the path after a body's first piece."""

    def write(self, path: str, body: bytes) -> None:
        # Each write in another second: Last-Modified has nothing finer.
        self.writes += 1
        self.files[path] = ServedFile(body, datetime.fromtimestamp(1_700_000_000 + self.writes, UTC))

    def server(self) -> LoopbackServer:
        return LoopbackServer(self.handle)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = unquote(request.raw_path.partition("?")[0]).removeprefix("/")
        self.calls[request.method] += 1
        self.authorizations.append(request.headers.get("Authorization", ""))
        if self.authorization and request.headers.get("Authorization") != self.authorization:
            return web.Response(status=401)
        if target := self.redirects.get(path):
            return web.Response(status=302, headers={"Location": target})
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405)
        if path in self.files:
            return await self._file(request, path)
        names = self._names(path)
        if path and not path.endswith("/") and self._names(f"{path}/"):
            return web.Response(status=301, headers={"Location": f"/{quote(path)}/"})
        if path not in ("", self.root) and not (names and path.endswith("/")):
            return web.Response(status=404)
        return self._page(path, names)

    def _names(self, path: str) -> list[str]:
        below = (key[len(path) :] for key in self.files if key.startswith(path))
        return sorted({f"{name}{slash}" for name, slash, _ in (one.partition("/") for one in below) if name})

    def _page(self, path: str, names: list[str]) -> web.Response:
        if self.pages == "json":
            entries = [
                {"name": name.removesuffix("/"), "type": "directory" if name.endswith("/") else "file"}
                for name in names
            ]
            return web.json_response(entries)
        if self.pages == "website":
            return web.Response(text="<html><title>Welcome</title><a href='x'>x</a></html>", content_type="text/html")
        title = {"python": f"Directory listing for /{path}"}.get(self.pages, f"Index of /{path}")
        lines = [f"<html><head><title>{html.escape(title)}</title></head><body><h1>{html.escape(title)}</h1><pre>"]
        if self.pages == "apache":
            lines += ['<a href="?C=N;O=D">Name</a>', f'<a href="/{quote(path)}../">Parent Directory</a>']
        elif self.pages == "nginx":
            lines.append('<a href="../">../</a>')
        lines += [
            f'<a href="{html.escape(quote(name))}">{html.escape(name[:20])}</a>  01-Jan-2026 10:00  1.2K'
            for name in names
        ]
        return web.Response(text="\n".join([*lines, "</pre></body></html>"]), content_type="text/html")

    async def _file(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        file = self.files[path]
        modified = format_datetime(file.modified, usegmt=True)
        headers = {"Content-Type": "application/octet-stream"}
        if "ETag" in self.validators:
            headers["ETag"] = file.etag
        if "Last-Modified" in self.validators:
            headers["Last-Modified"] = modified
        if "W/ETag" in self.validators:
            headers["ETag"] = f"W/{file.etag}"
        size = len(file.body)
        if request.method == "HEAD":
            if self.head_status != 200:
                return web.Response(status=self.head_status)
            return web.Response(headers={**headers, "Content-Length": str(size)})
        if request.headers.get("If-Match", file.etag) != file.etag:
            return web.Response(status=412)
        since = request.headers.get("If-Unmodified-Since")
        if since and file.modified > parsedate_to_datetime(since):
            return web.Response(status=412)
        start, end, status = 0, size, 200
        if self.has_ranges and (wanted := request.headers.get("Range")):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(int(last) + 1, size), 206
            if start >= size:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        answer = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(end - start)})
        await answer.prepare(request)
        while start < end:
            piece = self.files[path].body[start : min(start + PIECE_BYTES, end)]
            if not piece:
                break
            await answer.write(piece)
            start += len(piece)
            if self.while_sending is not None:
                hook, self.while_sending = self.while_sending, None
                hook(path)
        await answer.write_eof()
        return answer
