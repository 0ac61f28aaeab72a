"""The same calls on a mount and on a plain directory: both must answer alike.

Owns what "alike" means: the value or the errno of each call, and the few answers SEMANTICS.md declares to be others
(`Twins.declared`). Takes no decision about which calls come; a state machine or a person does.
"""

import ctypes
import errno
import mmap
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

AGREE_SECONDS: Final = 20.0
"""Far above the second that is promised: what is late is told apart from what never comes."""
OPEN_MAX: Final = 8
OWNER: Final = (os.getuid(), os.getgid())
RENAME_NOREPLACE: Final = 1
_AT_FDCWD: Final = -100
_LIBC: Final = ctypes.CDLL(None, use_errno=True)

Answer = tuple[str, Any]
"""("is", value) or ("errno", its name)."""


class Differs(AssertionError):
    """The mount answered otherwise than the directory; the message ends with the calls that led there."""


@dataclass
class Pair:
    """One file or directory opened on both sides."""

    ours: int
    theirs: int
    path: str
    flags: int

    @property
    def may_write(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    def each(self) -> tuple[int, int]:
        return self.ours, self.theirs


@dataclass
class Twins:
    """Directories of several mounts that show the same files, and a plain one beside them."""

    mounts: list[Path]
    plain: Path
    active: int = 0
    """The mount the next calls go to."""
    pairs: list[Pair] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    """Every path a call was given: those that are not there must be seen to be gone by the other mounts too."""
    slowest_agreement_seconds: float = 0.0
    told: Callable[[str], None] = lambda _: None
    """Hears of every difference, also of one that is not seen again."""

    # Calls by path

    def open(self, path: str, flags: int, mode: int) -> None:
        """open(2); what opens is kept as one more pair, the oldest is closed when there are too many."""
        if len(self.pairs) >= OPEN_MAX:
            self.close(0)
        opened: list[int] = []

        def act(root: Path) -> str:
            opened.append(os.open(root / path, flags | os.O_CLOEXEC, mode))
            return "open"

        try:
            self._both(f"open {path} {flags:#o} {mode:#o}", act, path)
        except Differs:
            for descriptor in opened:
                os.close(descriptor)
            raise
        if opened:
            theirs, ours = opened
            self.pairs.append(Pair(ours, theirs, path, flags))

    def stat(self, path: str) -> None:
        """stat(2), the fields that are promised."""
        self._both(f"stat {path}", lambda root: _fields((root / path).stat()), path)

    def names(self, path: str) -> None:
        """Names and kinds in a directory."""
        self._both(f"list {path}", lambda root: _names(root / path), path)

    def whole(self, path: str) -> None:
        """Open, read to the end, close."""
        self._both(f"read all of {path}", lambda root: (root / path).read_bytes(), path)

    def truncate(self, path: str, size: int) -> None:
        """truncate(2)."""
        self._both(f"truncate {path} {size}", lambda root: os.truncate(root / path, size), path)

    def mkdir(self, path: str, mode: int) -> None:
        """mkdir(2)."""
        self._both(f"mkdir {path} {mode:#o}", lambda root: (root / path).mkdir(mode), path)

    def rmdir(self, path: str) -> None:
        """rmdir(2)."""
        self._both(f"rmdir {path}", lambda root: (root / path).rmdir(), path)

    def unlink(self, path: str) -> None:
        """unlink(2)."""
        self._both(f"unlink {path}", lambda root: (root / path).unlink(), path)

    def rename(self, source: str, target: str, flags: int = 0) -> None:
        """renameat2(2), with RENAME_NOREPLACE or without."""
        self._both(
            f"rename {source} {target} {flags}",
            lambda root: _rename(root / source, root / target, flags),
            source,
            target,
        )

    def chmod(self, path: str, mode: int) -> None:
        """chmod(2)."""
        self._both(f"chmod {path} {mode:#o}", lambda root: (root / path).chmod(mode), path)

    def chown(self, path: str, user: int) -> None:
        """chown(2): declared EPERM for another owner."""

        def act(root: Path) -> None:
            os.chown(root / path, user if root is not self.plain else OWNER[0], -1)

        refused = None if user == OWNER[0] else ("errno", "EPERM")
        self._declared(f"chown {path} {user}", act, (self.plain / path).stat, lambda _: refused)

    def utime(self, path: str) -> None:
        """utimensat(2): that it succeeds is all that is declared of a committed file."""
        self._both(f"utime {path}", lambda root: os.utime(root / path, ns=(10**18, 10**18)), path)

    def link(self, kind: str, path: str, target: str) -> None:
        """symlink(2), link(2) and mknod(2): what would succeed is declared EPERM."""
        acts: dict[str, Callable[[Path], None]] = {
            "symlink": lambda root: (root / path).symlink_to("nowhere"),
            "link": lambda root: (root / path).hardlink_to(root / target),
            "fifo": lambda root: os.mkfifo(root / path),
        }

        def undo(_: object) -> Answer:
            (self.plain / path).unlink()
            return "errno", "EPERM"

        self._declared(f"{kind} {path} {target}", acts[kind], lambda: None, undo)

    def readlink(self, path: str) -> None:
        """readlink(2): there are no links."""
        self._both(f"readlink {path}", lambda root: (root / path).readlink(), path)

    # Calls by descriptor

    def pair(self, number: int) -> Pair | None:
        """Return an open pair, whatever the number; None when nothing is open."""
        return self.pairs[number % len(self.pairs)] if self.pairs else None

    def close(self, number: int) -> None:
        """close(2)."""
        if self.pairs:
            pair = self.pairs.pop(number % len(self.pairs))
            self._on(pair, "close", os.close)

    def duplicate_closed(self, number: int) -> None:
        """dup(2), and close(2) of it: commits as any close."""
        self._at(number, "dup, close", lambda descriptor: os.close(os.dup(descriptor)))

    def pwrite(self, number: int, offset: int, data: bytes) -> None:
        """pwrite(2)."""
        self._at(number, f"pwrite {len(data)} at {offset}", lambda descriptor: os.pwrite(descriptor, data, offset))

    def write(self, number: int, data: bytes) -> None:
        """write(2): at the descriptor's place, or the file's end when it appends."""
        self._at(number, f"write {len(data)}", lambda descriptor: os.write(descriptor, data))

    def pread(self, number: int, offset: int, length: int) -> None:
        """pread(2)."""
        self._at(number, f"pread {length} at {offset}", lambda descriptor: os.pread(descriptor, length, offset))

    def read(self, number: int, length: int) -> None:
        """read(2)."""
        self._at(number, f"read {length}", lambda descriptor: os.read(descriptor, length))

    def seek(self, number: int, offset: int, whence: int) -> None:
        """lseek(2) of a file."""
        pair = self.pair(number)
        if pair is not None and not stat.S_ISDIR(os.fstat(pair.theirs).st_mode):
            self._on(pair, f"seek {offset} {whence}", lambda descriptor: os.lseek(descriptor, offset, whence))

    def ftruncate(self, number: int, size: int) -> None:
        """ftruncate(2)."""
        self._at(number, f"ftruncate {size}", lambda descriptor: os.ftruncate(descriptor, size))

    def fsync(self, number: int) -> None:
        """fsync(2)."""
        self._at(number, "fsync", os.fsync)

    def fdatasync(self, number: int) -> None:
        """fdatasync(2)."""
        self._at(number, "fdatasync", os.fdatasync)

    def fstat(self, number: int) -> None:
        """fstat(2)."""
        self._at(number, "fstat", lambda descriptor: _fields(os.fstat(descriptor)))

    def fchmod(self, number: int, mode: int) -> None:
        """fchmod(2)."""
        self._at(number, f"fchmod {mode:#o}", lambda descriptor: os.fchmod(descriptor, mode))

    def mapped(self, number: int, offset: int, length: int) -> None:
        """Read through a shared mapping of the whole file."""

        def act(descriptor: int) -> bytes:
            size = os.fstat(descriptor).st_size
            with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as view:
                return view[offset : offset + length]

        pair = self.pair(number)
        if pair is not None and os.fstat(pair.theirs).st_size and stat.S_ISREG(os.fstat(pair.theirs).st_mode):
            self._on(pair, f"mmap read {length} at {offset}", act)

    def names_at(self, number: int) -> None:
        """Names in an open directory, from its start."""
        self._at(number, "list", lambda descriptor: sorted(os.listdir(descriptor)))  # noqa: PTH208  # of a descriptor

    def open_at(self, number: int, name: str) -> None:
        """Create and close a file in an open directory, which may be removed."""

        def act(descriptor: int) -> None:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=descriptor))

        self._at(number, f"create {name} in", act)

    def mkdir_at(self, number: int, name: str) -> None:
        """Make a directory in an open directory, which may be removed."""
        self._at(number, f"mkdir {name} in", lambda descriptor: os.mkdir(name, dir_fd=descriptor))

    # Whole trees

    def agree(self) -> None:
        """Close everything; every mount shows what the plain directory has, soon."""
        while self.pairs:
            self.close(0)
        wanted = tree(self.plain)
        gone = {path for path in self.asked if path not in wanted and path != "."}
        began = time.monotonic()
        for mount in self.mounts:
            while (found := _shown(mount, gone)) != wanted:
                if time.monotonic() - began > AGREE_SECONDS:
                    raise self._differs("the whole tree", ("is", found), ("is", wanted), mount)
                time.sleep(0.005)
        self.slowest_agreement_seconds = max(self.slowest_agreement_seconds, time.monotonic() - began)

    def switch(self) -> None:
        """From here on the calls go to the next mount, which shows all that was closed."""
        self.calls.append("switch")
        self.agree()
        self.active = (self.active + 1) % len(self.mounts)

    def let_go(self) -> None:
        """Close what is open, whatever it answers."""
        for pair in self.pairs:
            for descriptor in pair.each():
                with suppress(OSError):
                    os.close(descriptor)
        self.pairs.clear()

    # What alike means

    def _at(self, number: int, what: str, act: Callable[[int], object]) -> None:
        pair = self.pair(number)
        if pair is not None:
            self._on(pair, what, act)

    def _on(self, pair: Pair, what: str, act: Callable[[int], object]) -> None:
        theirs, ours = _answer(lambda: act(pair.theirs)), _answer(lambda: act(pair.ours))
        self._compare(f"{what} {pair.path} (opened {pair.flags:#o})", ours, theirs)

    def _both(self, what: str, act: Callable[[Path], object], *paths: str) -> None:
        self.asked.update(paths)
        theirs = _answer(lambda: act(self.plain))
        self._compare(what, _answer(lambda: act(self.mounts[self.active])), theirs)

    def _declared(
        self,
        what: str,
        act: Callable[[Path], object],
        look: Callable[[], Any],
        declared: Callable[[Any], Answer | None],
    ) -> None:
        """What fails on the plain directory fails alike; of what succeeds there, `declared` tells what was there
        before and returns the answer that is declared, None for the same."""
        try:
            before = look()
        except OSError:
            before = None
        theirs = _answer(lambda: act(self.plain))
        ours = _answer(lambda: act(self.mounts[self.active]))
        wanted = declared(before) if theirs[0] == "is" else None
        self._compare(what, ours, wanted or theirs)

    def _compare(self, what: str, ours: Answer, theirs: Answer) -> None:
        self.calls.append(f"{what} -> {_short(theirs)}")
        if ours != theirs:
            raise self._differs(what, ours, theirs, self.mounts[self.active])

    def _differs(self, what: str, ours: Answer, theirs: Answer, mount: Path) -> Differs:
        story = "\n  ".join(self.calls[-200:])
        message = f"{what}: {mount} {_short(ours)}, should be {_short(theirs)}, after\n  {story}"
        self.told(message)
        return Differs(message)


def tree(root: Path) -> dict[str, object]:
    """Return every path below with its mode and bytes."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(root, onerror=_raise):
        for name in names:
            path = Path(directory, name)
            found[path.relative_to(root).as_posix()] = stat.S_IMODE(path.stat().st_mode)
        for name in files:
            path = Path(directory, name)
            content = path.read_bytes() if path.is_file() else b"neither a file nor a directory"
            found[path.relative_to(root).as_posix()] = (stat.S_IMODE(path.lstat().st_mode), content)
    return found


def _raise(error: OSError) -> None:
    raise error


def _shown(root: Path, gone: set[str]) -> dict[str, object] | str:
    """The tree; in words what is wrong with it while news of another node are on their way."""
    try:
        found = tree(root)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ESTALE}:
            return f"{error.filename} is listed, and {os.strerror(error.errno)}"
        raise
    there = sorted(path for path in gone if _is_name(root / path))
    return f"{there} are there still" if there else found


def _is_name(path: Path) -> bool:
    """Whether the kernel finds the name. Not by stat(): of what is gone it is ENOENT while the name is still trusted,
    and what asks for no attributes, as readlink(), would answer for the rest of that second."""
    try:
        os.close(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _answer(act: Callable[[], object]) -> Answer:
    try:
        return "is", act()
    except OSError as error:
        return "errno", errno.errorcode.get(error.errno or 0, error.errno)


def _fields(status: os.stat_result) -> dict[str, object]:
    is_file = stat.S_ISREG(status.st_mode)
    return {
        "kind": stat.S_IFMT(status.st_mode),
        "mode": stat.S_IMODE(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "size": status.st_size if is_file else None,
        "links": status.st_nlink if is_file else None,
    }


def _names(directory: Path) -> list[tuple[str, bool]]:
    with os.scandir(directory) as entries:
        return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)


def _rename(source: Path, target: Path, flags: int) -> None:
    if _LIBC.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def _short(answer: Answer) -> str:
    kind, value = answer
    text = repr(value)
    if isinstance(value, bytes):
        text = f"{len(value)} bytes {value[:16]!r}…" if len(value) > 16 else text
    return f"{kind} {text if len(text) < 400 else text[:400] + '…'}"
