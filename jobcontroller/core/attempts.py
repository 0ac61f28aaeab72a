"""Attempts: a job's runs, and every name that carries their number.

Does not end old attempts (core/fencing.py). Names are a function of (job, role, index, attempt), so making a pod
twice is refused by the API server and a controller that starts anew finds what the last one made.
The host name carries the attempt too: a pod of an old attempt that will not die cannot be reached by, or
reach, the new one by name, and the port differs as well."""

from __future__ import annotations

import hashlib

#: a pod's name is its host name, which DNS limits
MAX_NAME_CHARACTERS = 63
#: outside Linux' ephemeral ports (32768–60999) and Kubernetes' NodePorts (30000–32767)
FIRST_PORT, PORT_COUNT = 20_000, 10_000


def pod_name(job_name: str, role: str, index: int, attempt: int) -> str:
    """Name of one pod; at most 63 characters, shortened by a hash of the job's name."""
    return shortened(job_name, f"-{role.lower()}-{index}-a{attempt}")


def group_name(job_name: str, attempt: int) -> str:
    """Name of the attempt's PodGroup; at most 63 characters, as it is a label's value too."""
    return shortened(job_name, f"-a{attempt}")


def host_name(job_name: str, role: str, index: int, attempt: int) -> str:
    """DNS name of a pod within its namespace: `<pod>.<job>`."""
    return f"{pod_name(job_name, role, index, attempt)}.{job_name}"


def rendezvous_port(job_uid: str, attempt: int) -> int:
    """A port in 20000–29999 from the job's uid and attempt.

    Stragglers of an old attempt cannot join the new rendezvous, and jobs that share a host's network collide
    with a chance of one in ten thousand rather than always."""
    digest = hashlib.sha256(f"{job_uid}/{attempt}".encode()).digest()
    return FIRST_PORT + int.from_bytes(digest[:4], "big") % PORT_COUNT


def shortened(job_name: str, tail: str) -> str:
    """The job's name and a tail; at most 63 characters, the name shortened by a hash of itself."""
    if len(job_name) + len(tail) <= MAX_NAME_CHARACTERS:
        return job_name + tail
    digest = hashlib.sha256(job_name.encode()).hexdigest()[:8]
    kept = job_name[: MAX_NAME_CHARACTERS - len(tail) - len(digest) - 1].rstrip("-")
    return f"{kept}-{digest}{tail}"
