"""HDFS over WebHDFS in memory: a namenode and its datanodes on one port.

Keeps to what Hadoop 3 does: redirects for bytes, file ids, batches in order of names, RemoteException bodies, a rename
with OVERWRITE that refuses a directory in the file's place. The same suite runs on real Hadoop (`make nightly`).
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote, unquote_plus, urlencode

from aiohttp import web

from tests.builders.loopback_server import LoopbackServer

PIECE_BYTES: Final = 16 << 10

_STATUS: Final = {
    "FileNotFoundException": 404,
    "IllegalArgumentException": 400,
    "UnsupportedOperationException": 400,
    "SecurityException": 401,
}


class Refused(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(slots=True)
class Node:
    id: int
    is_directory: bool
    modified_ms: int
    body: bytes = b""

    def status(self, suffix: str) -> dict[str, Any]:
        return {
            "accessTime": 0,
            "blockSize": 134217728,
            "childrenNum": 0,
            "fileId": self.id,
            "group": "g",
            "length": len(self.body),
            "modificationTime": self.modified_ms,
            "owner": "o",
            "pathSuffix": suffix,
            "permission": "644",
            "replication": 1,
            "storagePolicy": 0,
            "type": "DIRECTORY" if self.is_directory else "FILE",
        }


@dataclass
class WebHdfsServer:
    """Nodes by absolute path; with `tokens`, requests without one of them are refused."""

    batch: int = 1000
    tokens: set[str] = field(default_factory=set)
    has_batches: bool = True
    is_standby: bool = False
    nodes: dict[str, Node] = field(default_factory=lambda: {"/": Node(1, True, 1)})
    calls: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    users_seen: Counter[str] = field(default_factory=Counter)
    flags_seen: Counter[str] = field(default_factory=Counter)
    while_sending: Callable[[str], None] | None = None
    """Called with the path after a body's first piece."""
    _last_id: int = 1

    def server(self) -> LoopbackServer:
        return LoopbackServer(self.handle)

    def write(self, path: str, body: bytes) -> None:
        self.make_directory(path.rpartition("/")[0] or "/")
        self.nodes[path] = self._node(is_directory=False, body=body)

    def make_directory(self, path: str) -> None:
        names = path.strip("/").split("/") if path != "/" else []
        for depth in range(1, len(names) + 1):
            above = f"/{'/'.join(names[:depth])}"
            there = self.nodes.setdefault(above, self._node(is_directory=True))
            if not there.is_directory:
                raise Refused("ParentNotDirectoryException")

    def _node(self, *, is_directory: bool, body: bytes = b"") -> Node:
        self._last_id += 1
        return Node(self._last_id, is_directory, int(time.time() * 1000), body)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        raw_path, _, raw_query = request.raw_path.partition("?")
        query = {
            unquote_plus(name): unquote_plus(value)
            for name, _, value in (one.partition("=") for one in raw_query.split("&") if one)
        }
        path = unquote(raw_path).removeprefix("/webhdfs/v1").rstrip("/") or "/"
        body = await request.content.read()
        self.users_seen[query.get("user.name", "")] += 1
        try:
            if self.is_standby:
                raise Refused("StandbyException")
            if self.tokens and query.get("delegation") not in self.tokens:
                raise Refused("SecretManager$InvalidToken")
            if "namenoderpcaddress" in query:
                self.calls[f"{query['op']} bytes"] += 1
                return await self._bytes(request, path, query, body)
            self.calls[query["op"]] += 1
            return self._name(request, path, query)
        except Refused as refused:
            self.refused[refused.name] += 1
            remote = {"exception": refused.name, "javaClassName": f"x.{refused.name}", "message": "canary-of-server"}
            return web.json_response({"RemoteException": remote}, status=_STATUS.get(refused.name, 403))

    # Namenode

    def _name(self, request: web.BaseRequest, path: str, query: dict[str, str]) -> web.Response:
        op = query["op"]
        if op in ("OPEN", "CREATE", "APPEND"):
            return self._redirect(request, path, query)
        if op == "GETFILESTATUS":
            return web.json_response({"FileStatus": self._at(path).status("")})
        if op == "LISTSTATUS":
            return web.json_response({"FileStatuses": {"FileStatus": self._listed(path)}})
        if op == "LISTSTATUS_BATCH" and self.has_batches:
            is_file = not self._at(path).is_directory
            after = query["startAfter"].encode()
            left = [one for one in self._listed(path) if is_file or one["pathSuffix"].encode() > after]
            listing = {
                "partialListing": {"FileStatuses": {"FileStatus": left[: self.batch]}},
                "remainingEntries": len(left[self.batch :]),
            }
            return web.json_response({"DirectoryListing": listing})
        if op == "MKDIRS":
            self.make_directory(path)
            return web.json_response({"boolean": True})
        if op == "DELETE":
            if path in self.nodes and self._listed(path, itself=False):
                raise Refused("PathIsNotEmptyDirectoryException")
            return web.json_response({"boolean": self.nodes.pop(path, None) is not None})
        if op == "RENAME":
            return self._rename(path, query)
        raise Refused("IllegalArgumentException")

    def _at(self, path: str) -> Node:
        node = self.nodes.get(path)
        if node is None:
            raise Refused("FileNotFoundException")
        return node

    def _listed(self, path: str, *, itself: bool = True) -> list[dict[str, Any]]:
        node = self._at(path)
        if not node.is_directory:
            return [node.status("")] if itself else []
        lead = path.rstrip("/") + "/"
        names = [
            one[len(lead) :]
            for one in self.nodes
            if one.startswith(lead) and one != "/" and "/" not in one[len(lead) :]
        ]
        return [self.nodes[lead + name].status(name) for name in sorted(names, key=str.encode)]

    def _rename(self, path: str, query: dict[str, str]) -> web.Response:
        source, target = self._at(path), query["destination"]
        there = self.nodes.get(target)
        if query.get("renameoptions") != "OVERWRITE":
            if there is not None:
                return web.json_response({"boolean": False})
        elif there is not None and there.is_directory != source.is_directory:
            raise Refused("IOException")
        if not self._at(target.rpartition("/")[0] or "/").is_directory:
            raise Refused("ParentNotDirectoryException")
        self.nodes[target] = self.nodes.pop(path)
        return web.Response(content_type="application/octet-stream")

    def _redirect(self, request: web.BaseRequest, path: str, query: dict[str, str]) -> web.Response:
        if query["op"] == "OPEN":
            node = self._at(path)
            if node.is_directory:
                raise Refused("FileNotFoundException")
            if int(query.get("offset", "0")) >= max(len(node.body), 1):
                raise Refused("IOException")
        location = urlencode({**query, "namenoderpcaddress": "nn:8020"})
        url = f"http://{request.headers['Host']}/webhdfs/v1{quote(path)}?{location}"
        return web.Response(status=307, headers={"Location": url})

    # Datanodes

    async def _bytes(
        self, request: web.BaseRequest, path: str, query: dict[str, str], body: bytes
    ) -> web.StreamResponse:
        op = query["op"]
        if op == "OPEN":
            return await self._send(request, path, int(query.get("offset", "0")), int(query["length"]))
        if op == "CREATE":
            self.flags_seen[query.get("createflag", "")] += 1
            if path in self.nodes and query.get("overwrite") != "true":
                raise Refused("FileAlreadyExistsException")
            self.write(path, body)
            return web.Response(status=201)
        node = self._at(path)
        node.body += body
        node.modified_ms = int(time.time() * 1000)
        return web.Response()

    async def _send(self, request: web.BaseRequest, path: str, offset: int, length: int) -> web.StreamResponse:
        # As a datanode: blocks of the file it opened, whatever the name points at meanwhile.
        node = self._at(path)
        end = min(offset + length, len(node.body))
        answer = web.StreamResponse(headers={"Content-Length": str(end - offset)})
        await answer.prepare(request)
        while offset < end:
            piece = node.body[offset : min(offset + PIECE_BYTES, end)]
            await answer.write(piece)
            offset += len(piece)
            if self.while_sending is not None:
                hook, self.while_sending = self.while_sending, None
                hook(path)
        await answer.write_eof()
        return answer
