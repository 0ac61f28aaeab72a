"""Makes the ssh keys of a job.

Owns their kind and the files they are in. Keeps none: whoever asks puts them into the job's Secret and forgets them.
One pair for the whole job, as its pods trust each other; ECDSA P-521, as mpi-operator's and Trainer's."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

#: Hosts are new with every attempt, and nobody but the job has their names: there is no known key to compare with.
_CLIENT_CONFIG = """Host *
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


def new_files() -> dict[str, str]:
    """Return the files of ~/.ssh with a fresh pair: id_rsa, id_rsa.pub, authorized_keys and config."""
    key = ec.generate_private_key(ec.SECP521R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + "\n"
    return {"id_rsa": private, "id_rsa.pub": public, "authorized_keys": public, "config": _CLIENT_CONFIG}
