"""Which nodes a core/v1 NodeSelector matches.

Owns the selector rules of Kubernetes (terms are ORed, expressions of a term ANDed). Pure. Used for a Dataset's
`nodeAffinity.required`: where its blocks may be kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def matches(selector: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> bool:
    """Return whether a node is selected. An empty term matches nothing, as in Kubernetes."""
    return any(_term_matches(term, name, labels) for term in selector.get("nodeSelectorTerms") or ())


def _term_matches(term: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> bool:
    expressions = term.get("matchExpressions") or ()
    fields = term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(_requirement_holds(one, labels) for one in expressions) and all(
        _requirement_holds(one, {"metadata.name": name}) for one in fields
    )


def _requirement_holds(requirement: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    key, operator = requirement.get("key", ""), requirement.get("operator", "")
    wanted: Sequence[str] = requirement.get("values") or ()
    match operator:
        case "In":
            return key in values and values[key] in wanted
        case "NotIn":
            return key not in values or values[key] not in wanted
        case "Exists":
            return key in values
        case "DoesNotExist":
            return key not in values
        case "Gt" | "Lt":
            try:
                have, limit = int(values[key]), int(wanted[0])
            except (KeyError, ValueError, IndexError):
                return False
            return have > limit if operator == "Gt" else have < limit
        case _:
            return False
