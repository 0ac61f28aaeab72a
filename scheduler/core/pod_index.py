"""Which assigned pods are where, by what other pods' selectors see of them.

Owns the assigned pods of every node row grouped by identity, and for each set of pods anybody asked about
(`PodSet`) and each term assigned pods hold against or for others (`HeldTerm`) the counts by row, kept while
pods come and go. So a filter over all nodes is a few array operations and a bind updates one row. Does not
judge (plugins do). Namespace labels are kept here because namespaceSelectors read them.

Rules from interpodaffinity of kube-scheduler 1.36: of a term held by an assigned pod, a namespaceSelector looks at
the labels of the new pod's namespace, which are none when that is not known. Of a pod's own terms it picks among
the namespaces that are known; and one that holds for no labels at all (an empty one, DoesNotExist, NotIn) picks
every namespace, whatever its labels, because mergeAffinityTermNamespacesIfNotEmpty (plugin.go) takes the selector
off a copy of the term only and AffinityTerm.Matches is then asked with no labels.

Invariants: a counted set equals a count made anew over all groups; sets and terms no pod has any more cost
nothing; what-if copies (core/what_if_index.py) never write into what is kept here.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from scheduler.core.node_table import NodeTable
from scheduler.core.pod_terms import NO_TERMS, HeldTerm, Hint, PodIdentity, PodSet, PodTerm, PodTerms
from scheduler.core.row_counts import RowCounts

MAX_SETS = 1024
MAX_REACH = 65_536
# Label keys by whose values groups are found; selectors by other keys look at all groups of their namespaces.
MAX_LABEL_KEYS = 64
Item = TypeVar("Item", PodSet, HeldTerm)
Held = tuple[HeldTerm, RowCounts]


class PodCounts(Protocol):
    """What plugins ask of the index, or of a what-if copy of it."""

    def counted(self, pods: PodSet) -> RowCounts:
        """How many of these pods are on each row."""

    def reaching(self, identity: PodIdentity) -> tuple[Held, ...]:
        """Terms of assigned pods that are about a pod with this identity, and how many hold each on each row."""

    def selects(self, pods: PodSet, identity: PodIdentity) -> bool:
        """Whether a pod with this identity would be one of the set."""

    def is_about(self, held: HeldTerm, identity: PodIdentity) -> bool:
        """Whether a term, once an assigned pod holds it, is about a pod with this identity."""


@dataclass(slots=True)
class _Group:
    """Assigned pods with one identity: their number by row, and the sets they are counted in."""

    identity: PodIdentity
    is_leaving: bool
    rows: dict[int, int] = field(default_factory=dict)
    counted: list[RowCounts] = field(default_factory=list)


_Groups = dict[tuple[PodIdentity, bool], _Group]


class PodIndex:
    """See the module's docstring. One writer."""

    def __init__(self, table: NodeTable) -> None:
        self._table = table
        self._groups: dict[str, _Groups] = {}  # by namespace
        # By label key, for keys that selectors ask for: groups by namespace and value.
        self._by_label: dict[str, dict[tuple[str, str], _Groups]] = {}
        self._sets: OrderedDict[PodSet, RowCounts] = OrderedDict()
        self._sets_by_hint: dict[Hint, dict[PodSet, None]] = {}
        self._held: dict[HeldTerm, RowCounts] = {}
        self._held_by_hint: dict[Hint, dict[HeldTerm, None]] = {}
        self._reach: dict[PodIdentity, tuple[Held, ...]] = {}
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self.version = 0  # rises when namespaces change what sets contain

    # ---- pods -------------------------------------------------------------------------------

    def add(self, row: int, identity: PodIdentity, terms: PodTerms, *, is_leaving: bool = False) -> bool:
        """Count a pod on a row; returns whether anybody's question counts it."""
        group = self._group(identity, is_leaving)
        group.rows[row] = group.rows.get(row, 0) + 1
        for counts in group.counted:
            counts.change(row, 1)
        if terms is not NO_TERMS:
            for term in terms.held:
                self._held_counts(term).change(row, 1)
        return bool(group.counted)

    def remove(self, row: int, identity: PodIdentity, terms: PodTerms, *, is_leaving: bool = False) -> None:
        """Stop counting a pod that was added with the same arguments."""
        group = self._groups[identity.namespace][(identity, is_leaving)]
        left = group.rows[row] - 1
        for counts in group.counted:
            counts.change(row, -1)
        if left:
            group.rows[row] = left
        else:
            del group.rows[row]
            if not group.rows:
                self._drop_group(group)
        if terms is not NO_TERMS:
            for term in terms.held:
                counts = self._held[term]
                counts.change(row, -1)
                if not counts.total:
                    self._drop_held(term)

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> bool:
        """A namespace's labels, None when it is gone; returns whether that can change an answer."""
        if self._namespaces.get(name) == labels:
            return False
        if labels is None:
            del self._namespaces[name]
        else:
            self._namespaces[name] = labels
        self._reach.clear()
        for pods in [pods for pods in self._sets if any(term.namespace_selector for term in pods.terms)]:
            self._drop_set(pods)
        self.version += 1
        return True

    # ---- questions --------------------------------------------------------------------------

    def counted(self, pods: PodSet) -> RowCounts:
        """How many of these pods are on each row; counted once, kept current after."""
        found = self._sets.get(pods)
        if found is not None:
            self._sets.move_to_end(pods)
            return found
        while len(self._sets) >= MAX_SETS:
            self._drop_set(next(iter(self._sets)))
        found = self._sets[pods] = RowCounts(self._table)
        self._sets_by_hint.setdefault(pods.terms[0].hint, {})[pods] = None
        for group in self._possible(pods):
            if self._contains(pods, group.identity, group.is_leaving):
                group.counted.append(found)
                for row, count in group.rows.items():
                    found.change(row, count)
        return found

    def reaching(self, identity: PodIdentity) -> tuple[Held, ...]:
        """Held terms about such a pod, oldest first."""
        if not self._held:
            return ()
        found = self._reach.get(identity)
        if found is None:
            if len(self._reach) >= MAX_REACH:
                self._reach.clear()
            terms = [term for term in _hinted(self._held_by_hint, identity) if self.is_about(term, identity)]
            terms.sort(key=lambda term: term.number)
            found = self._reach[identity] = tuple((term, self._held[term]) for term in terms)
        return found

    def selects(self, pods: PodSet, identity: PodIdentity) -> bool:
        """Whether a pod with this identity would be one of the set."""
        return all(self._selects(term, identity) for term in pods.terms)

    def is_about(self, held: HeldTerm, identity: PodIdentity) -> bool:
        """Whether an assigned pod's term is about a pod with this identity."""
        term = held.term
        if term.selector is None:
            return False
        if identity.namespace not in term.namespaces:
            if term.namespace_selector is None:
                return False
            if not term.namespace_selector.matches(self._namespaces.get(identity.namespace, {})):
                return False
        return term.selector.matches(identity.labels)

    def copy_of_held(self, held: HeldTerm) -> RowCounts:
        """How many assigned pods hold a term on each row, to be changed by a what-if."""
        found = self._held.get(held)
        return found.copy() if found is not None else RowCounts(self._table)

    def is_counted(self, identity: PodIdentity, *, is_leaving: bool) -> bool:
        """Whether anybody's question counts an assigned pod."""
        group = self._groups.get(identity.namespace, {}).get((identity, is_leaving))
        return group is not None and bool(group.counted)

    @property
    def is_quiet(self) -> bool:
        """Whether no assigned pod wants anything of others."""
        return not self._held

    # ---- inside -----------------------------------------------------------------------------

    def _contains(self, pods: PodSet, identity: PodIdentity, is_leaving: bool) -> bool:
        return (pods.counts_leaving or not is_leaving) and self.selects(pods, identity)

    def _selects(self, term: PodTerm, identity: PodIdentity) -> bool:
        if term.selector is None:
            return False
        if identity.namespace not in term.namespaces:
            selector = term.namespace_selector
            if selector is None:
                return False
            labels = self._namespaces.get(identity.namespace)
            if not selector.matches({}) and (labels is None or not selector.matches(labels)):
                return False
        return term.selector.matches(identity.labels)

    def _possible(self, pods: PodSet) -> Iterable[_Group]:
        term = pods.terms[0]
        namespaces: Iterable[str] = term.namespaces if term.namespace_selector is None else self._groups
        if term.hint is None or not self._finds_by(term.hint[0]):
            for namespace in namespaces:
                yield from self._groups.get(namespace, {}).values()
            return
        key, value = term.hint
        for namespace in namespaces:
            yield from self._by_label[key].get((namespace, value), {}).values()

    def _finds_by(self, key: str) -> bool:
        """Whether groups can be found by a label key's values; from now on, if there is room."""
        if key not in self._by_label:
            if len(self._by_label) >= MAX_LABEL_KEYS:
                return False
            self._by_label[key] = {}
            for groups in self._groups.values():
                for group in groups.values():
                    self._note_label(key, group)
        return True

    def _note_label(self, key: str, group: _Group) -> None:
        value = group.identity.labels.get(key)
        if value is not None:
            found = self._by_label[key].setdefault((group.identity.namespace, value), {})
            found[(group.identity, group.is_leaving)] = group

    def _group(self, identity: PodIdentity, is_leaving: bool) -> _Group:
        groups = self._groups.setdefault(identity.namespace, {})
        group = groups.get((identity, is_leaving))
        if group is None:
            group = groups[(identity, is_leaving)] = _Group(identity, is_leaving)
            for key in self._by_label:
                self._note_label(key, group)
            for pods in _hinted(self._sets_by_hint, identity):
                if self._contains(pods, identity, is_leaving):
                    group.counted.append(self._sets[pods])
        return group

    def _drop_group(self, group: _Group) -> None:
        groups = self._groups[group.identity.namespace]
        del groups[(group.identity, group.is_leaving)]
        if not groups:
            del self._groups[group.identity.namespace]
        for key, by_value in self._by_label.items():
            place = (group.identity.namespace, group.identity.labels.get(key, ""))
            found = by_value.get(place)
            if found is not None and found.pop((group.identity, group.is_leaving), None) is not None and not found:
                del by_value[place]

    def _drop_set(self, pods: PodSet) -> None:
        counts = self._sets.pop(pods)
        del self._sets_by_hint[pods.terms[0].hint][pods]
        if not self._sets_by_hint[pods.terms[0].hint]:
            del self._sets_by_hint[pods.terms[0].hint]
        for group in self._possible(pods):
            group.counted = [item for item in group.counted if item is not counts]

    def _held_counts(self, term: HeldTerm) -> RowCounts:
        counts = self._held.get(term)
        if counts is None:
            counts = self._held[term] = RowCounts(self._table)
            self._held_by_hint.setdefault(term.term.hint, {})[term] = None
            self._reach.clear()
        return counts

    def _drop_held(self, term: HeldTerm) -> None:
        del self._held[term]
        del self._held_by_hint[term.term.hint][term]
        if not self._held_by_hint[term.term.hint]:
            del self._held_by_hint[term.term.hint]
        self._reach.clear()


def _hinted(by_hint: Mapping[Hint, dict[Item, None]], identity: PodIdentity) -> list[Item]:
    """Items whose hint is among a pod's labels, or that have none."""
    if not by_hint:
        return []
    found = list(by_hint.get(None, ()))
    for label in identity.labels.items():
        found += by_hint.get(label, ())
    return found
