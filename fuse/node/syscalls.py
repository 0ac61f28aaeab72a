"""System calls the C library has no functions for."""

import ctypes
import os
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)


def call(what: str, *arguments: object) -> int:
    """Return the result of a system call: its number, then its arguments. OSError, which names `what`."""
    result = int(_libc.syscall(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
