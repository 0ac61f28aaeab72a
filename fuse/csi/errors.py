"""Why a CSI call is refused, in the domain's words.

    Refusal
    ├── BadRequest       a field that can never be right; the caller must change it
    ├── NoSuchVolume     no such dataset, path or published volume
    ├── Forbidden        the pod's namespace may not have this dataset
    ├── Conflict         the same name or path is taken by something else
    ├── NotPossible      the volume or the node is not in a state for it
    ├── Busy             another call for the same volume is in work
    ├── TooSlow          it did not end in its time; trying again is safe
    ├── NotNow           a process it needs does not answer; trying again is safe
    └── NotOffered       a call this driver does not have

Each message is one sentence that names the field, the value and what would be right. Which gRPC code each becomes
is in shell/edge.py, and nowhere else.
"""


class Refusal(Exception):
    """Base: an answer to the caller, not a defect of ours."""


class BadRequest(Refusal):
    """A field that can never be right."""


class NoSuchVolume(Refusal):
    """No such dataset, path or published volume."""


class Forbidden(Refusal):
    """The pod's namespace may not have this dataset."""


class Conflict(Refusal):
    """The same name or path is taken by something else."""


class NotPossible(Refusal):
    """The volume or the node is not in a state for it."""


class Busy(Refusal):
    """Another call for the same volume is in work."""


class TooSlow(Refusal):
    """It did not end in its time."""


class NotNow(Refusal):
    """A process it needs does not answer."""


class NotOffered(Refusal):
    """A call this driver does not have."""
