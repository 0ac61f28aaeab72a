"""What can go wrong in the file system, in the domain's words.

    FileSystemError
    ├── NotFound            no such path, or it is gone
    ├── AlreadyExists       the name is taken
    ├── NotADirectory       a file stands where a directory is needed
    ├── IsADirectory        a directory stands where a file is needed
    ├── NotEmpty            the directory still has entries
    ├── ReadOnly            the dataset, or the list of datasets, is not written through the mount
    ├── NotPermitted        refused for good: special files, hard links, changes of owner
    ├── AccessDenied        the under store refused our credentials
    ├── Unsupported         the store cannot hold it: mode bits of a committed file, attributes
    ├── CrossDataset        a rename from one dataset to another
    ├── InvalidRequest      arguments that make no sense
    ├── BadName             a name that is not UTF-8
    ├── NameTooLong         a name above 255 bytes
    ├── BadHandle           an operation the handle was not opened for
    ├── NoAttribute         no such extended attribute
    ├── Stale               the object is no longer the version that was opened
    ├── NoSpace             the worker's disk or the store is full
    ├── TooLarge            beyond the largest file
    ├── Busy                in use elsewhere
    ├── NoRoom              this node's cache has no room for the bytes even for a moment; they can be sent inline
    └── Unavailable         worker, metadata or under store did not answer in time, or failed

Owns the tree only. Which errno each becomes is in core/errnos.py, and nowhere else.
"""


class FileSystemError(Exception):
    """Base: an answer to the application, not a defect of ours."""


class NotFound(FileSystemError):
    """No such path, or it is gone."""


class AlreadyExists(FileSystemError):
    """The name is taken."""


class NotADirectory(FileSystemError):
    """A file stands where a directory is needed."""


class IsADirectory(FileSystemError):
    """A directory stands where a file is needed."""


class NotEmpty(FileSystemError):
    """The directory still has entries."""


class ReadOnly(FileSystemError):
    """The dataset, or the list of datasets, is not written through the mount."""


class NotPermitted(FileSystemError):
    """Refused for good: special files, hard links, changes of owner."""


class AccessDenied(FileSystemError):
    """The under store refused our credentials."""


class Unsupported(FileSystemError):
    """The store cannot hold it: mode bits of a committed file, extended attributes."""


class CrossDataset(FileSystemError):
    """A rename from one dataset to another."""


class InvalidRequest(FileSystemError):
    """Arguments that make no sense."""


class BadName(FileSystemError):
    """A name that is not UTF-8; under stores name objects in UTF-8."""


class NameTooLong(FileSystemError):
    """A name above 255 bytes."""


class BadHandle(FileSystemError):
    """An operation the handle was not opened for."""


class NoAttribute(FileSystemError):
    """No such extended attribute."""


class Stale(FileSystemError):
    """The object is no longer the version that was opened."""


class NoSpace(FileSystemError):
    """The worker's disk or the store is full."""


class TooLarge(FileSystemError):
    """Beyond the largest file."""


class Busy(FileSystemError):
    """In use elsewhere."""


class NoRoom(FileSystemError):
    """This node's cache has no room for the bytes even for a moment; they can be sent inline."""


class Unavailable(FileSystemError):
    """Worker, metadata or under store did not answer in time, or failed."""


class Ended(Unavailable):
    """The last close came first: the file being written is no longer."""
