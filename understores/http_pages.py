"""What web servers say: directory pages, index files, and which version of a file an answer shows.

Pure. Owns which pages are taken for directories (nginx, Apache, lighttpd and Python's http.server as HTML, nginx and
Caddy as JSON) and which links for entries. Invariants: an entry is one name directly below its page; a page that is
not recognised is an error, never an empty directory.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from understores.errors import StoreFailed
from understores.tree_listing import Child

_TITLES: Final = ("index of ", "directory listing for ")


def parse_directory(body: bytes, content_type: str, url: str) -> list[Child]:
    """Entries of the page at `url` (after redirects), by name; StoreFailed when it is no directory page."""
    children: dict[str, Child] = {}
    for child in _json_entries(body) if "json" in content_type else _html_entries(body, url):
        if child.name not in ("", ".", "..") and "/" not in child.name and "\0" not in child.name:
            children[child.name] = child
    return sorted(children.values())


def _html_entries(body: bytes, url: str) -> list[Child]:
    page = _Page()
    page.feed(body.decode("utf-8", "surrogateescape"))
    page.close()
    if not page.title.strip().lower().startswith(_TITLES):
        raise StoreFailed(
            f"{shown_url(url)} is not a directory page (its title begins neither with 'Index of' nor with "
            "'Directory listing for'); switch directory pages on, or name a list of files by the option 'index'."
        )
    base = urlsplit(url)
    lead = base.path if base.path.endswith("/") else f"{base.path.rpartition('/')[0]}/"
    found = []
    for link in page.links:
        try:
            target = urlsplit(urljoin(url, link))
        except ValueError:
            continue
        # Links with a query sort the page, those to elsewhere lead up or away.
        is_below = (target.scheme, target.netloc) == (base.scheme, base.netloc) and target.path.startswith(lead)
        if not is_below or target.query:
            continue
        name = target.path[len(lead) :]
        is_directory = name.endswith("/")
        try:
            found.append(Child(unquote(name.removesuffix("/"), errors="strict"), is_directory))
        except UnicodeDecodeError:
            raise StoreFailed(f"{shown_url(url)} lists a name that is not UTF-8: {name!r}.") from None
    return found


def _json_entries(body: bytes) -> list[Child]:
    try:
        entries = json.loads(body)
        return [
            Child(
                str(entry["name"]).removesuffix("/"),
                bool(entry.get("is_dir", False)) or entry.get("type") == "directory",
            )
            for entry in entries
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise StoreFailed("the directory page is JSON, but not a list of objects with a name.") from None


class _Page(HTMLParser):
    """Collects the title and the links."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.links: list[str] = []
        self._is_in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._is_in_title = True
        elif tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._is_in_title = False

    def handle_data(self, data: str) -> None:
        if self._is_in_title:
            self.title += data


@dataclass(frozen=True, slots=True, order=True)
class IndexLine:
    """One file of an index; without size and etag its server has to be asked."""

    key: str
    size_bytes: int = 0
    etag: str = ""


def parse_index(body: bytes, where: str) -> list[IndexLine]:
    """Files of an index in key order; StoreFailed names the line that is wrong.

    One file a line: the key, or key, size in bytes and strong etag with tabs between them. Keys are plain text, not
    URL-encoded.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise StoreFailed(f"the index {where} is not UTF-8 text.") from None
    lines: dict[str, IndexLine] = {}
    for number, line in enumerate(text.splitlines() if "\r" in text else text.split("\n"), 1):
        if not line:
            continue
        key, *rest = line.split("\t")
        is_path = key and not any(name in ("", ".", "..") for name in key.split("/")) and "\0" not in key
        if not is_path or len(rest) not in (0, 2) or (rest and not (rest[0].isascii() and rest[0].isdigit())):
            raise StoreFailed(
                f"line {number} of the index {where} is {line[:200]!r}; write a path, or a path, its size in bytes "
                "and its etag with tabs between them."
            )
        if key in lines:
            raise StoreFailed(f"line {number} of the index {where} names {key!r} again.")
        lines[key] = IndexLine(key, int(rest[0]), f'"{rest[1].strip(chr(34))}"') if rest else IndexLine(key)
    return [lines[key] for key in sorted(lines)]


def version(headers: Mapping[str, str], size_bytes: int) -> str:
    """What pins the version an answer shows, or "" when the server says nothing that could.

    The strong ETag; else, after a tilde, weak ETag, Last-Modified and size: a server that sends only a time cannot
    show two writes within one second, unless they change the size.
    """
    etag, modified = headers.get("ETag", "").strip(), headers.get("Last-Modified", "").strip()
    if len(etag) > 2 and etag.startswith('"') and etag.endswith('"'):
        return etag
    return f"~{etag}|{modified}|{size_bytes}" if etag or modified else ""


def precondition(etag: str) -> dict[str, str]:
    """The request header by which a server refuses to send another version than `etag`, where there is one."""
    if etag.startswith('"'):
        return {"If-Match": etag}
    modified = etag[1:].split("|")[1] if etag.startswith("~") and etag.count("|") == 2 else ""
    return {"If-Unmodified-Since": modified} if modified else {}


def content_range(text: str) -> tuple[int, int, int] | None:
    """Start, end (exclusive) and size of a file out of `bytes 0-9/10`; None when it is not of that form."""
    unit, _, rest = text.strip().partition(" ")
    span, _, size = rest.partition("/")
    first, _, last = span.partition("-")
    if unit != "bytes" or not all(part.isascii() and part.isdigit() for part in (first, last, size)):
        return None
    return int(first), int(last) + 1, int(size)


def shown_url(url: str) -> str:
    """A URL for a message: without its query, which may be a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
