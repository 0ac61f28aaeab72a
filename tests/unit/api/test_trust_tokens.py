"""Capability tokens: what is signed is what is read, and nothing else is taken."""

import base64

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from api.trust.tokens import (
    SKEW_SECONDS,
    Claims,
    SigningKey,
    TokenRefused,
    key_id_in,
    key_id_of,
    public_key,
    sign,
    verify,
)

KEY, OTHER = (SigningKey.of(Ed25519PrivateKey.generate()) for _ in range(2))
KEYS = {key.key_id: public_key(key.public_bytes) for key in (KEY,)}
ME = "headrace://node/n1"
TEXT = st.text(max_size=40)
CLAIMS = st.builds(
    Claims,
    key_id=TEXT,
    uid=TEXT,
    namespace=TEXT,
    name=TEXT,
    may_write=st.booleans(),
    audience=st.just(ME),
    issued_at_seconds=st.integers(0, 1000),
    expires_at_seconds=st.integers(1000, 2000),
)


@settings(deadline=None)
@given(CLAIMS)
def test_what_was_signed_is_what_is_read(claims: Claims) -> None:
    token = sign(claims, KEY)
    assert key_id_in(token) == KEY.key_id == key_id_of(KEY.public_bytes)
    assert verify(token, KEYS, audience=ME, now_seconds=1000) == msgspec.structs.replace(claims, key_id=KEY.key_id)


@settings(deadline=None)
@given(CLAIMS, st.data())
def test_a_token_with_any_other_byte_is_refused(claims: Claims, data: st.DataObject) -> None:
    token = sign(claims, KEY)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda letter: letter != token[at]))
    changed = token[:at] + other + token[at + 1 :]
    try:
        verify(changed, KEYS, audience=ME, now_seconds=1000)
    except TokenRefused as refused:
        assert refused.reason in {"malformed", "signature", "unknown-key"}
    else:
        # The last character of a part has bits that stand for nothing.
        assert [base64.urlsafe_b64decode(part + "==") for part in changed.split(".")[1:]] == [
            base64.urlsafe_b64decode(part + "==") for part in token.split(".")[1:]
        ]


@pytest.mark.parametrize("text", ["hr1.\ud800.AAAA", "hr1.é.AAAA", "hr1.AAAA.\ud800"])
def test_characters_that_no_token_has_are_no_error_of_another_kind(text: str) -> None:
    with pytest.raises(TokenRefused) as caught:
        verify(text, KEYS, audience=ME, now_seconds=0)
    assert caught.value.reason == "malformed"


@settings(deadline=None)
@given(st.one_of(st.text(), st.binary().map(lambda raw: "hr1." + base64.urlsafe_b64encode(raw).decode() + ".AAAA")))
def test_anything_else_is_refused_in_a_sentence_without_it(text: str) -> None:
    with pytest.raises(TokenRefused) as caught:
        verify(text, KEYS, audience=ME, now_seconds=0)
    assert len(text) < 12 or text not in str(caught.value)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (1000 - SKEW_SECONDS, None),
        (1000 - SKEW_SECONDS - 1, "not-yet"),
        (1600 + SKEW_SECONDS, None),
        (1600 + SKEW_SECONDS + 1, "expired"),
    ],
)
def test_clocks_may_differ_by_so_much(now: float, reason: str | None) -> None:
    claims = Claims(
        key_id="",
        uid="u",
        namespace="n",
        name="d",
        may_write=False,
        audience=ME,
        issued_at_seconds=1000,
        expires_at_seconds=1600,
    )
    token = sign(claims, KEY)
    if reason is None:
        verify(token, KEYS, audience=ME, now_seconds=now)
        return
    with pytest.raises(TokenRefused) as caught:
        verify(token, KEYS, audience=ME, now_seconds=now)
    assert caught.value.reason == reason


def test_a_key_of_ones_own_is_not_taken_under_the_id_of_a_known_one() -> None:
    claims = Claims(
        key_id="",
        uid="u",
        namespace="n",
        name="d",
        may_write=True,
        audience=ME,
        issued_at_seconds=0,
        expires_at_seconds=9999,
    )
    for key, reason in ((OTHER, "unknown-key"), (SigningKey(KEY.key_id, OTHER.private), "signature")):
        with pytest.raises(TokenRefused) as caught:
            verify(sign(claims, key), KEYS, audience=ME, now_seconds=1)
        assert caught.value.reason == reason
    with pytest.raises(TokenRefused) as caught:
        verify(sign(claims, KEY), KEYS, audience="headrace://node/n2", now_seconds=1)
    assert caught.value.reason == "audience"
    assert "Private" not in repr(KEY)
