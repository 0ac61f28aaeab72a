"""Listing in key order what a store shows only directory by directory (HTTP, WebHDFS).

Owns order, prefixes, resuming and the places to cut. Does no request: it asks `children`. Invariants: keys come
sorted as a flat store would sort them ("a-b" < "a/b" < "ab"); a directory is read once a listing and never as a
whole kept, only its sub-directories that sort behind the files read so far; an empty directory is a marker.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from understores.errors import NotFound, StoreFailed
from understores.keys import levels_to_cut

DEPTH_MAX: Final = 100
"""Directories in each other; a link that leads upwards would make endless ones."""
DIRECTORIES_A_PAGE: Final = 64
"""A page ends after so many, full or not: each is a request, and a page has a deadline."""
SPLIT_BATCHES_MAX: Final = 4
"""Batches read of a directory in which places to cut are looked for."""


@dataclass(frozen=True, slots=True, order=True)
class Child:
    """An entry of a directory; what a store's directories do not tell is 0 or empty. Of a directory: its own."""

    name: str
    is_directory: bool
    size_bytes: int = 0
    etag: str = ""
    mtime_ns: int = 0

    @property
    def sort_name(self) -> str:
        """The name as it counts in the order of keys."""
        return f"{self.name}/" if self.is_directory else self.name


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or the marker of an empty directory (its key ends in a slash)."""

    key: str
    child: Child


Children = Callable[[str, str], AsyncGenerator[list[Child], None]]
"""`children(path, after)`: a directory's entries in order of their names, in batches, NotFound when there is none.

Entries whose key, relative to the directory, sorts after `after` and the directory that `after` is in must be
there; others may be.
"""


async def walk(
    children: Children, prefix: str, start_after: str, *, page_entries: int
) -> AsyncGenerator[list[Found], None]:
    """Pages of what lies below the top directory with `prefix` and behind `start_after`.

    NotFound when the root itself is missing; another directory that is missing is an empty one.
    """
    page: list[Found] = []
    directories = 0

    async def counted(path: str, after: str) -> AsyncGenerator[list[Child], None]:
        nonlocal directories
        directories += 1
        async with aclosing(children(path, after)) as batches:
            async for batch in batches:
                yield batch

    top = prefix.rpartition("/")[0]
    async with aclosing(_walk(counted, top, prefix, start_after, depth=0)) as found:
        async for one in found:
            page.append(one)
            if len(page) >= page_entries or directories >= DIRECTORIES_A_PAGE:
                yield page
                page, directories = [], 0
    if page:
        yield page


async def split_points(children: Children, after: str, until: str) -> list[str]:
    """Directories between the two keys, of the highest level that has some below `after`'s own."""
    for lead in levels_to_cut(after, until):
        level = lead[:-1]
        found: list[str] = []
        batches = 0
        try:
            async with aclosing(children(level, after[len(lead) :])) as listed:
                async for batch in listed:
                    points = (f"{lead}{child.name}/" for child in batch if child.is_directory)
                    found += [one for one in points if after < one and (not until or one < until)]
                    batches += 1
                    if batches >= SPLIT_BATCHES_MAX:
                        break
        except NotFound:
            if not level:
                raise
        if found:
            return found
    return []


async def _walk(
    children: Children, path: str, prefix: str, start_after: str, *, depth: int
) -> AsyncGenerator[Found, None]:
    if depth > DEPTH_MAX:
        raise StoreFailed(f"{path!r} is more than {DEPTH_MAX} directories deep; a link may lead upwards.")
    lead = f"{path}/" if path else ""
    is_empty = True
    after = start_after[len(lead) :] if start_after.startswith(lead) else ""
    try:
        async with aclosing(_in_key_order(children(path, after))) as entries:
            async for child in entries:
                is_empty = False
                key = f"{lead}{child.sort_name}"
                if not child.is_directory:
                    if key > start_after and key.startswith(prefix):
                        yield Found(key, child)
                    continue
                is_past = key > start_after or start_after.startswith(key)
                if is_past and (key.startswith(prefix) or prefix.startswith(key)):
                    async with aclosing(_walk(children, key[:-1], prefix, start_after, depth=depth + 1)) as below:
                        async for found in below:
                            yield found if found.key != key else Found(key, child)
    except NotFound:
        if not path:
            raise
        return
    if is_empty and path and lead.startswith(prefix) and lead > start_after:
        yield Found(lead, Child(path.rpartition("/")[2], is_directory=True))


async def _in_key_order(batches: AsyncGenerator[list[Child], None]) -> AsyncGenerator[Child, None]:
    """Entries in order of their keys: a directory waits for the files whose names sort before its slash."""
    waiting: list[tuple[str, Child]] = []
    async with aclosing(batches) as listed:
        async for batch in listed:
            for child in batch:
                while waiting and waiting[0][0] < child.name:
                    yield heappop(waiting)[1]
                if child.is_directory:
                    heappush(waiting, (child.sort_name, child))
                else:
                    yield child
    while waiting:
        yield heappop(waiting)[1]
