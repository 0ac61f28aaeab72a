"""Whatever is marked, and however little is remembered: a token's answer is complete, or it is not known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metadata.core.revisions import Revisions


@given(st.lists(st.sampled_from("abcde"), max_size=30), st.data())
def test_all_that_was_marked_since_a_token_is_told_or_it_is_not_known(marks: list[str], data: st.DataObject) -> None:
    revisions = Revisions("p", remembered_max=3)
    tokens = [revisions.token]
    for uid in marks:
        revisions.mark(uid)
        tokens.append(revisions.token)
    at = data.draw(st.integers(0, len(marks)))
    told = revisions.since(tokens[at])
    if told is None:
        assert len(set(marks)) > 3
    else:
        assert sorted(told) == sorted(set(marks[at:]))
    assert revisions.since(tokens[-1]) == []
