"""Where the credentials of under stores are, below the folder a process was given: spelled once.

Written by the cache controller, read by the metadata service and the workers. Owns two spellings of one value's place:
a path, for folders of files, and a key, for a Secret that is mounted as the folder, whose files lie side by side.
"""

import hashlib

KEY_CHARACTERS_MAX = 253
"""Of a key of a Secret."""


def credential_path(namespace: str, secret: str, key: str) -> str:
    """Return the path of one key of a Secret."""
    return f"{namespace}/{secret}/{key}"


def credential_key(path: str) -> str:
    """Return the same place as a key of one Secret, another one for every path.

    Neither namespaces nor names of Secrets have an underscore. What would be too long has a hash of the path in place
    of all but the namespace."""
    plain = path.replace("/", "_")
    if len(plain) <= KEY_CHARACTERS_MAX:
        return plain
    return f"{key_prefix(path.partition('/')[0])}{hashlib.sha256(path.encode()).hexdigest()}"


def key_prefix(namespace: str) -> str:
    """Return what every key of a namespace begins with, and no other namespace's."""
    return f"{namespace}_"
