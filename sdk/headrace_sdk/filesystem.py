"""The fsspec file system: `headrace://NAMESPACE/DATASET/PATH`.

Owns names: URL to dataset and path, and fsspec's shapes. Files are in files.py.
"""

import errno
import io
import shutil
import stat
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fsspec.spec import AbstractFileSystem

from headrace_sdk.files import File, Pinned, Staged, WritableFile
from headrace_sdk.worker import FIND_DATASET, LIST, LOOKUP, MAKE_DIRECTORY, REMOVE, RENAME, Worker

T = TypeVar("T")

COPY_BYTES = 8 << 20
FILE_MODE = 0o644
DIRECTORY_MODE = 0o755


class HeadraceFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Datasets of this node's cache worker.

    >>> import fsspec
    >>> with fsspec.open("headrace://team-a/imagenet/train/0001.tar") as file: ...
    """

    protocol = "headrace"
    root_marker = ""

    def __init__(self, socket: str | None = None, tokens: str | None = None, **options: Any) -> None:
        """`socket`: path of the worker's socket; default $HEADRACE_SOCKET, else /run/headrace/worker.sock. `tokens`:
        folder of tokens for a worker that wants them; default $HEADRACE_TOKENS, else /run/headrace/tokens."""
        super().__init__(socket=socket, tokens=tokens, **options)
        self.worker = Worker(socket, tokens)
        self._uids: dict[tuple[str, str], str] = {}
        self._declared: str | None = None

    # Names

    def _uid(self, namespace: str, name: str) -> str:
        known = self._uids.get((namespace, name))
        if known is None:
            reply = self.worker.ask(FIND_DATASET, {"namespace": namespace, "name": name})
            known = self._uids[namespace, name] = str(reply.meta["uid"])
        return known

    def _split(self, path: str) -> tuple[str, str, str]:
        """Namespace, dataset, path inside."""
        parts = [part for part in self._strip_protocol(path).split("/") if part]
        if len(parts) < 2:
            raise ValueError(f"{path!r} names no dataset; write headrace://NAMESPACE/DATASET/PATH")
        return parts[0], parts[1], "/".join(parts[2:])

    def _with_uid(self, path: str, act: Callable[[str], T]) -> T:
        """Return what `act` makes of the dataset's uid; of the new one, when the dataset was made anew under its name.
        FileNotFoundError."""
        namespace, name, _inside = self._split(path)
        uid = self._uid(namespace, name)
        try:
            return act(uid)
        except FileNotFoundError:
            # Another thread may have found the new one meanwhile. No lock: a forked child would find it locked.
            if self._uids.get((namespace, name)) == uid:
                self._uids.pop((namespace, name), None)
            now = self._uid(namespace, name)
            if now == uid:
                raise
            return act(now)

    def _ask(self, op: int, path: str, **more: Any) -> dict[str, Any]:
        inside = self._split(path)[2]
        try:
            return self._with_uid(path, lambda uid: self.worker.ask(op, {"uid": uid, "path": inside, **more}).meta)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "no such file or dataset", path) from error

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return name, size, type, etag, mtime (seconds), mode of a path; FileNotFoundError."""
        namespace, name, _inside = self._split(path)
        return _info(f"{namespace}/{name}", self._ask(LOOKUP, path))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Return the entries of a directory, or the file itself; FileNotFoundError."""
        own = self.info(path)
        if own["type"] == "file":
            return [own] if detail else [own["name"]]
        namespace, name, _inside = self._split(path)
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self._ask(LIST, path, after=after)
            found += [_info(f"{namespace}/{name}", entry) for entry in page["entries"]]
            if not page.get("more", False) or not page["entries"]:
                break
            after = str(page["entries"][-1]["path"]).rpartition("/")[2]
        return found if detail else [each["name"] for each in found]

    # fsspec's own take any failure for absence; then a worker that restarts would make a trainer begin anew.

    def exists(self, path: str, **_: Any) -> bool:
        """Whether the path is there; OSError when that cannot be told."""
        return self._type(path) is not None

    def isdir(self, path: str) -> bool:
        """Whether it is a directory; OSError when that cannot be told."""
        return self._type(path) == "directory"

    def isfile(self, path: str) -> bool:
        """Whether it is a file; OSError when that cannot be told."""
        return self._type(path) == "file"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None

    def modified(self, path: str) -> Any:
        """Return the time of the last change, in UTC."""
        import datetime

        return datetime.datetime.fromtimestamp(self.info(path)["mtime"], tz=datetime.UTC)

    def ukey(self, path: str) -> str:
        """What changes when the bytes do."""
        return str(self.info(path)["etag"])

    # Bytes

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **_: Any) -> io.BufferedIOBase:
        if mode == "rb":
            return File(Pinned(self.worker, self._version(path)))
        if mode in ("wb", "xb", "ab"):
            return WritableFile(self._stage(path, mode))
        raise ValueError(f"mode {mode!r} must be one of rb, wb, xb, ab")

    def _version(self, path: str) -> dict[str, Any]:
        entry = self._ask(LOOKUP, path)
        if entry.get("is_directory", False):
            raise IsADirectoryError(errno.EISDIR, "it is a directory", path)
        namespace, name, inside = self._split(path)
        size = int(entry.get("size_bytes", 0))
        return {"uid": self._uid(namespace, name), "path": inside, "etag": entry.get("etag", ""), "size_bytes": size}

    def _stage(self, path: str, mode: str) -> Staged:
        base: dict[str, Any] = {}
        if mode != "wb":
            try:
                base = self._version(path)
            except FileNotFoundError:
                base = {}
            if base and mode == "xb":
                raise FileExistsError(errno.EEXIST, "it exists", path)
        meta: dict[str, Any] = {"path": self._split(path)[2]}
        if base:
            meta.update(base_etag=base["etag"], base_size_bytes=base["size_bytes"])
        at_end = mode == "ab"
        return self._with_uid(path, lambda uid: Staged(self.worker, {"uid": uid, **meta}, FILE_MODE, at_end=at_end))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return a file's bytes, or those of a range (negative: from the end)."""
        with self._open(path) as file:
            assert isinstance(file, File)
            first, last, _step = slice(start, end).indices(file.size)
            return file.pread(last - first, first)

    def declare(self, paths: Sequence[str]) -> None:
        """Tell the node's worker the order in which files of one dataset will be opened, here, by forked readers or
        through the mount, so that it has them ready. Replaces what this thread declared before; [] takes it back.
        Advice: whoever opens others, or is quicker, reads as ever. ValueError when they are of several datasets."""
        split = [self._split(path) for path in paths]
        if len({names[:2] for names in split}) > 1:
            raise ValueError(f"the files declared are of several datasets, {sorted({n[:2] for n in split})}; one fits")
        if split:
            self._declared = self._uid(*split[0][:2])
        if self._declared is not None:
            self.worker.declare(self._declared, [names[2] for names in split])

    # Changes

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Make a directory; FileExistsError. Without `create_parents` its parent must exist."""
        parent = self._parent(path)
        _namespace, _name, inside = self._split(path)
        if "/" in inside and not self.exists(parent):
            if not create_parents:
                raise FileNotFoundError(errno.ENOENT, "its parent does not exist", path)
            self.makedirs(parent, exist_ok=True)
        if self.exists(path):
            raise FileExistsError(errno.EEXIST, "it exists", path)
        self._change(MAKE_DIRECTORY, path, errno.EEXIST, mode=stat.S_IMODE(DIRECTORY_MODE))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a directory and its parents."""
        if self.exists(path):
            if exist_ok and self.isdir(path):
                return
            raise FileExistsError(errno.EEXIST, "it exists", path)
        self.mkdir(path, create_parents=True)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        self._change(REMOVE, path, errno.ENOENT, directory=True)

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        self._change(REMOVE, path, errno.ENOENT)

    def _rm(self, path: str) -> None:
        if self.isdir(path):
            self.rmdir(path)
        else:
            self.rm_file(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files; with `recursive` directories and what is in them."""
        for each in sorted(self.expand_path(path, recursive=recursive, maxdepth=maxdepth), reverse=True):
            self._rm(each)

    def mv(self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **_: Any) -> None:
        """Rename, a file over whatever file is there; inside one dataset."""
        source, target = self._split(path1), self._split(path2)
        if source[:2] != target[:2]:
            raise OSError(errno.EXDEV, "a rename stays inside one dataset", path1, None, path2)
        names = {"source": source[2], "target": target[2]}
        self._with_uid(path1, lambda uid: self.worker.change(RENAME, {"uid": uid, **names}, errno.ENOENT))

    def _change(self, op: int, path: str, done_errno: int, **more: Any) -> None:
        inside = self._split(path)[2]
        if not inside:
            raise OSError(errno.EPERM, "the dataset itself is changed by kubectl", path)
        self._with_uid(path, lambda uid: self.worker.change(op, {"uid": uid, "path": inside, **more}, done_errno))

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file, also to another dataset, or make the directory that the other one is; seen whole or not at
        all."""
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        with self._open(path1) as source, self._open(path2, "wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)


def _info(root: str, entry: dict[str, Any]) -> dict[str, Any]:
    inside = str(entry["path"])
    return {
        "name": f"{root}/{inside}" if inside else root,
        "type": "directory" if entry.get("is_directory", False) else "file",
        "size": int(entry.get("size_bytes", 0)),
        "etag": entry.get("etag", ""),
        "mtime": int(entry.get("mtime_ns", 0)) / 1e9,
        "mode": int(entry.get("mode", 0)),
    }
