"""What a connection may do, by the tokens it has shown."""

from hypothesis import given, settings
from hypothesis import strategies as st

from api.trust.tokens import SKEW_SECONDS, Claims
from cacheruntime.core.grants import Grants, Verdict

CLAIMS = st.builds(
    Claims,
    key_id=st.sampled_from(["k1", "k2"]),
    uid=st.sampled_from(["u1", "u2"]),
    namespace=st.just("n"),
    name=st.sampled_from(["a", "b"]),
    may_write=st.booleans(),
    audience=st.just("x"),
    issued_at_seconds=st.just(0),
    expires_at_seconds=st.integers(0, 300),
)


@settings(deadline=None)
@given(st.lists(CLAIMS, max_size=6), st.integers(0, 400), st.sets(st.sampled_from(["k1", "k2"])))
def test_nothing_is_allowed_but_by_a_token_that_is_good_now(shown: list[Claims], now: int, keys: set[str]) -> None:
    grants = Grants()
    for claims in shown:
        grants.add(claims)
    for uid in ("u1", "u2", "u3"):
        for write in (False, True):
            good = [
                one
                for one in shown
                if one.uid == uid
                and (one.may_write or not write)
                and one.key_id in keys
                and now <= one.expires_at_seconds + SKEW_SECONDS
            ]
            verdict = grants.verdict(uid, write=write, now_seconds=now, keys=keys)
            assert good or verdict is not Verdict.ALLOWED
            if not write:
                assert grants.may_read(uid, now, keys) == (verdict is Verdict.ALLOWED)


def test_the_last_key_counts_and_the_longest_token_of_it() -> None:
    def claims(key: str, until: int, *, write: bool = False) -> Claims:
        return Claims(
            key_id=key,
            uid="u",
            namespace="n",
            name="d",
            may_write=write,
            audience="x",
            issued_at_seconds=0,
            expires_at_seconds=until,
        )

    grants = Grants()
    assert grants.verdict("u", write=False, now_seconds=0, keys={"k1"}) is Verdict.MISSING
    grants.add(claims("k1", 100))
    grants.add(claims("k1", 50))
    assert grants.verdict("u", write=False, now_seconds=100 + SKEW_SECONDS, keys={"k1"}) is Verdict.ALLOWED
    assert grants.verdict("u", write=False, now_seconds=101 + SKEW_SECONDS, keys={"k1"}) is Verdict.EXPIRED
    assert grants.verdict("u", write=True, now_seconds=0, keys={"k1"}) is Verdict.READ_ONLY
    assert grants.verdict("u", write=False, now_seconds=0, keys={"k2"}) is Verdict.REVOKED
    grants.add(claims("k2", 60, write=True))
    assert grants.verdict("u", write=True, now_seconds=0, keys={"k2"}) is Verdict.ALLOWED
    assert grants.verdict("u", write=False, now_seconds=0, keys={"k2"}) is Verdict.ALLOWED
    assert grants.uid_of("n", "d") == "u" and grants.uid_of("n", "e") is None
