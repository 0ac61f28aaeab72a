"""pip-audit without a network: answers its questions from an export of the OSV database.

`python tools/offline_osv.py EXPORT COMMAND…` serves EXPORT (a folder or zip of OSV records, one JSON file each, as OSV
exports them for an ecosystem) on a free loopback port, runs COMMAND with `-s osv --osv-url …` added, and ends with its
exit status. Owns the one question pip-audit asks, /v1/query of a package and version; what a record says of a version
is as OSV's schema has it: listed by name, or inside one of its ECOSYSTEM ranges.
"""

import json
import subprocess
import sys
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

Record = dict[str, Any]
USAGE = "usage: python tools/offline_osv.py EXPORT COMMAND…; EXPORT is OSV's export of PyPI (all.zip) or a folder of it"


class Database:
    """Records by package."""

    def __init__(self, export: Path) -> None:
        self._records: dict[str, list[Record]] = defaultdict(list)
        self.count = 0
        for record in _read(export):
            self.count += 1
            packages = {canonicalize_name(one["package"]["name"]) for one in _affected(record)}
            for name in packages:
                self._records[name].append(record)

    def query(self, name: str, version: str) -> list[Record]:
        """Return the records of which this version is one; withdrawn ones too, which pip-audit leaves out itself."""
        key = canonicalize_name(name)
        return [
            record
            for record in self._records.get(key, ())
            if any(
                _is_affected(one, version)
                for one in _affected(record)
                if canonicalize_name(one["package"]["name"]) == key
            )
        ]


def _read(export: Path) -> Iterator[Record]:
    if export.is_dir():
        for file in sorted(export.rglob("*.json")):
            yield json.loads(file.read_bytes())
        return
    with zipfile.ZipFile(export) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".json"):
                yield json.loads(archive.read(name))


def _affected(record: Record) -> list[Record]:
    return [one for one in record.get("affected", ()) if one.get("package", {}).get("ecosystem") == "PyPI"]


def _is_affected(affected: Record, version: str) -> bool:
    if version in affected.get("versions", ()):
        return True
    try:
        asked = Version(version)
    except InvalidVersion:
        return False
    return any(_is_inside(one["events"], asked) for one in affected.get("ranges", ()) if one.get("type") == "ECOSYSTEM")


def _is_inside(events: list[Mapping[str, str]], version: Version) -> bool:
    """Events tell where a range begins and ends; the last one that is not behind the version decides."""
    inside = False
    for event in sorted(events, key=_version_of):
        at = _version_of(event)
        if "introduced" in event and version >= at:
            inside = True
        elif ("fixed" in event and version >= at) or ("last_affected" in event and version > at):
            inside = False
    return inside


def _version_of(event: Mapping[str, str]) -> Version:
    text = next(iter(event.values()))
    return Version("0.dev0") if text == "0" else Version(text)


def serve(database: Database) -> ThreadingHTTPServer:
    """Return a server on a free loopback port, serving."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = database.query(asked["package"]["name"], asked["version"])
            body = json.dumps({"vulns": found} if found else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: pip-audit reports."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main(arguments: list[str]) -> int:
    """Run the command beside the server; its exit status."""
    if len(arguments) < 2:
        print(USAGE, file=sys.stderr)
        return 2
    export, *command = arguments
    try:
        database = Database(Path(export))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        print(f"{export} cannot be read as an export of OSV: {error}", file=sys.stderr)
        return 2
    if not database.count:
        print(f"{export} holds no records: that nothing is found would mean nothing", file=sys.stderr)
        return 2
    server = serve(database)
    url = f"http://127.0.0.1:{server.server_port}/v1/query"
    print(f"{database.count} records of {export}", file=sys.stderr)
    try:
        return subprocess.run([*command, "-s", "osv", "--osv-url", url], check=False).returncode
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
