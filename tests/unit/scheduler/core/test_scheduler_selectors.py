"""Selectors: scheduler/core/selectors.py."""

import pytest

from scheduler.core.selectors import Requirement, compile_label_selector, compile_term, compile_terms, names_asked


@pytest.mark.parametrize(
    ("operator", "values", "value", "expected"),
    [
        ("In", ("a", "b"), "a", True),
        ("In", ("a",), None, False),
        ("NotIn", ("a",), "a", False),
        ("NotIn", ("a",), None, True),
        ("Exists", (), "x", True),
        ("Exists", (), None, False),
        ("DoesNotExist", (), None, True),
        ("DoesNotExist", (), "", False),
        ("Gt", ("3",), "4", True),
        ("Gt", ("3",), "3", False),
        ("Gt", ("3",), "x", False),
        ("Gt", ("3",), "1_0", False),
        ("Lt", ("3",), "-4", True),
        ("Lt", ("3",), None, False),
        ("Lt", ("3",), "99999999999999999999", False),
    ],
)
def test_operators(operator: str, values: tuple[str, ...], value: str | None, expected: bool) -> None:
    assert Requirement("k", operator, values).matches(value) is expected


def test_a_term_that_cannot_be_parsed_matches_nothing() -> None:
    assert compile_term({"matchExpressions": [{"key": "k", "operator": "Gt", "values": ["x"]}]}) is None
    assert compile_term({"matchExpressions": [{"key": "k", "operator": "Exists", "values": ["x"]}]}) is None
    assert compile_term({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]}) is None


def test_an_empty_term_matches_nothing() -> None:
    assert compile_terms([{}]) == ()


def test_names_asked_is_open_when_one_term_is() -> None:
    named = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    assert names_asked([named]) == frozenset({"n1"})
    assert names_asked([named, {"matchExpressions": []}]) is None


def test_names_asked_is_empty_for_a_contradiction() -> None:
    fields = [{"key": "metadata.name", "operator": "In", "values": [name]} for name in ("a", "b")]
    assert names_asked([{"matchFields": fields}]) == frozenset()


def test_a_label_selector_without_requirements_selects_everything_and_none_nothing() -> None:
    everything = compile_label_selector({})
    assert everything is not None
    assert everything.matches({})
    assert compile_label_selector(None) is None


def test_label_selectors_and_their_parts() -> None:
    selector = compile_label_selector(
        {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}
    )
    assert selector is not None
    assert selector.matches({"a": "1"})
    assert not selector.matches({"a": "1", "b": "2"})
