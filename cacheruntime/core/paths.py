"""Paths inside a dataset: which lies in which. Owns that one rule."""


def is_at_or_below(path: str, top: str) -> bool:
    """Whether a path is `top` or lies in it; "" is the root."""
    return not top or path == top or path.startswith(top + "/")
