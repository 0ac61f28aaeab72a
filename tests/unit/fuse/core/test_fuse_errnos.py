"""The errno table is complete, and what the worker answers comes back as the same errno."""

import errno

import pytest

from fuse import errors
from fuse.core.errnos import ERRNOS, errno_of, error_of


def _tree(kind: type[errors.FileSystemError]) -> list[type[errors.FileSystemError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _tree(child))]


def test_every_domain_error_has_an_errno() -> None:
    assert set(ERRNOS) == set(_tree(errors.FileSystemError))


@pytest.mark.parametrize("kind", _tree(errors.FileSystemError))
def test_every_errno_is_one_the_kernel_knows(kind: type[errors.FileSystemError]) -> None:
    assert errno_of(kind("why")) in errno.errorcode


@pytest.mark.parametrize(
    "number", [errno.ENOENT, errno.ESTALE, errno.ENOSPC, errno.EROFS, errno.ENOTEMPTY, errno.EEXIST, errno.EACCES]
)
def test_an_errno_of_the_worker_reaches_the_application_unchanged(number: int) -> None:
    assert errno_of(error_of(number, "why")) == number


def test_an_errno_without_a_meaning_here_is_an_input_output_error() -> None:
    assert isinstance(error_of(errno.EXFULL, "why"), errors.Unavailable)
    assert errno_of(error_of(0, "why")) == errno.EIO
