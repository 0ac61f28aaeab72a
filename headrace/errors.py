"""Errors of the command, each one sentence a person can act on.

    HeadraceError            anything that ends a command
    ├── ClusterError         a local cluster cannot be started, found or changed
    │   ├── BinaryMissing    a control-plane binary is not on this machine
    │   ├── PortInUse        a port that was asked for is taken
    │   └── ComponentFailed  a process died or was not ready in time
    └── UsageError           a value given by the user is wrong

Invariant: the text names the thing, the value and what would be right, and never
holds a secret."""

from __future__ import annotations


class HeadraceError(Exception):
    """Ends a command with exit code 1 and this text."""


class UsageError(HeadraceError):
    """A value given by the user is wrong; exit code 2."""


class ClusterError(HeadraceError):
    """A local cluster cannot be started, found or changed."""


class BinaryMissing(ClusterError):
    """A control-plane binary is neither named, nor on PATH, nor built."""


class PortInUse(ClusterError):
    """A port that was asked for by number is taken by another process."""


class ComponentFailed(ClusterError):
    """A process died while starting, or was not ready in time; the text ends with its log's tail."""
