"""Enrolment tokens as text: every token is decoded again, mistyped ones are refused, and the secret is never shown."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from hsmd.errors import BadRequest
from hsmd.protocol.enrolment import PREFIX, EnrolmentToken, decode_answer, decode_question, parse_password

tokens = st.builds(
    EnrolmentToken,
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.booleans(),
    st.from_regex(r"[a-z0-9.]{1,60}:[0-9]{1,5}", fullmatch=True),
)
TOKEN = EnrolmentToken(b"i" * 8, b"s" * 16, b"p" * 32, False, "10.9.0.1:7440")


@given(tokens)
def test_a_token_survives_its_written_form(token: EnrolmentToken) -> None:
    assert EnrolmentToken.parse(f" {token.text()}\n") == token
    assert token.text().isascii()


@given(tokens, st.data())
def test_a_mistyped_token_is_refused(token: EnrolmentToken, data: st.DataObject) -> None:
    text = token.text()
    position = data.draw(st.integers(len(PREFIX), len(text) - 2))  # the last character may have unused bits
    other = data.draw(
        st.sampled_from("abcXYZ019-_ \u00e9").filter(lambda character: character != text[position])
    )
    for spoilt in (
        text[:position] + other + text[position + 1 :],
        text[:position] + text[position + 1 :],
        text[:position],
    ):
        with pytest.raises(BadRequest) as caught:
            EnrolmentToken.parse(spoilt)
        assert token.secret.hex() not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_is_refused(text: str) -> None:
    for spoilt in (text, PREFIX + text):
        with pytest.raises(BadRequest):
            EnrolmentToken.parse(spoilt)


@given(st.text(max_size=80) | st.just(TOKEN.password))
def test_any_proof_is_parsed_or_is_none(text: str) -> None:
    proof = parse_password(text)
    assert proof is None or proof[0] == text[:16].lower()
    assert parse_password(TOKEN.password) is not None


@given(st.binary(max_size=100))
def test_any_bytes_are_a_document_or_are_refused(line: bytes) -> None:
    for decode in (decode_question, decode_answer):
        try:
            decode(line)
        except BadRequest:
            continue


def test_the_secret_is_not_in_the_repr() -> None:
    assert b"s" * 16 not in repr(TOKEN).encode()
    assert (b"s" * 16).hex() not in repr(TOKEN)
