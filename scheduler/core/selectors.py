"""Label and node selectors: compiled once a shape, matched on label values.

Owns the meaning of node selector terms (component-helpers/scheduling/corev1/nodeaffinity) and of metav1
label selectors. Does not know nodes: the node table hands over a column of a key's distinct values.
Invariants: a term that cannot be parsed matches nothing, an empty term matches nothing, as upstream.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAME_FIELD = "metadata.name"
# apimachinery/pkg/util/validation: a selector with anything else cannot be parsed, and matches nothing. The API
# server does not check the values of node selector terms.
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One expression on one label key; `values` are strings as written."""

    key: str
    operator: str
    values: tuple[str, ...]

    def matches(self, value: str | None) -> bool:
        """Whether a label value (None: the label is absent) satisfies the expression."""
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt" if self.values:
                number, limit = _integer(value), _integer(self.values[0])
                if number is None or limit is None:
                    return False
                return number > limit if self.operator == "Gt" else number < limit
        return False

    @property
    def is_valid(self) -> bool:
        """Whether upstream would parse it."""
        if not all(_LABEL_VALUE.fullmatch(value) for value in self.values):
            return False
        match self.operator:
            case "In" | "NotIn":
                return bool(self.values)
            case "Exists" | "DoesNotExist":
                return not self.values
            case "Gt" | "Lt":
                return len(self.values) == 1 and _integer(self.values[0]) is not None
        return False


@dataclass(frozen=True, slots=True)
class Term:
    """Requirements that must all hold; `fields` are on metadata.name."""

    labels: tuple[Requirement, ...]
    fields: tuple[Requirement, ...]
    weight: int = 0


def _integer(text: str | None) -> int | None:
    # strconv.ParseInt: optional sign and digits, 64 bits, no blanks or underscores.
    if text is None or not text.lstrip("+-").isdecimal() or len(text.lstrip("+-")) < len(text) - 1:
        return None
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 63 else None


def _requirement(raw: Mapping[str, Any]) -> Requirement:
    return Requirement(str(raw.get("key", "")), str(raw.get("operator", "")), tuple(raw.get("values") or ()))


def compile_term(raw: Mapping[str, Any], weight: int = 0) -> Term | None:
    """Compile a NodeSelectorTerm; None when it is empty or cannot be parsed: it matches nothing."""
    labels = tuple(_requirement(item) for item in raw.get("matchExpressions") or ())
    fields = tuple(_requirement(item) for item in raw.get("matchFields") or ())
    if not labels and not fields:
        return None
    if not all(requirement.is_valid for requirement in labels):
        return None
    for requirement in fields:
        if requirement.operator not in ("In", "NotIn") or len(requirement.values) != 1:
            return None
    return Term(labels, fields, weight)


def compile_terms(raw_terms: Sequence[Mapping[str, Any]] | None) -> tuple[Term, ...]:
    """Compile ORed terms, leaving out those that match nothing; () matches no node."""
    terms = (compile_term(raw) for raw in raw_terms or ())
    return tuple(term for term in terms if term is not None)


def names_asked(raw_terms: Sequence[Mapping[str, Any]]) -> frozenset[str] | None:
    """The node names the terms restrict a pod to; None when some term is open to every name.

    An empty set means that each term asks for two different names at once.
    """
    wanted: set[str] = set()
    for raw in raw_terms:
        term_names: set[str] | None = None
        for item in raw.get("matchFields") or ():
            if item.get("key") == NAME_FIELD and item.get("operator") == "In":
                values = set(item.get("values") or ())
                term_names = values if term_names is None else term_names & values
        if term_names is None:
            return None
        wanted |= term_names
    return frozenset(wanted)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A metav1.LabelSelector; no requirements match everything, None as a whole matches nothing."""

    requirements: tuple[Requirement, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(requirement.matches(labels.get(requirement.key)) for requirement in self.requirements)


def compile_label_selector(raw: Mapping[str, Any] | None) -> LabelSelector | None:
    """Compile a metav1.LabelSelector; None selects nothing."""
    if raw is None:
        return None
    equal = tuple(Requirement(key, "In", (value,)) for key, value in (raw.get("matchLabels") or {}).items())
    return LabelSelector(equal + tuple(_requirement(item) for item in raw.get("matchExpressions") or ()))
