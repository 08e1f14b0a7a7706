"""JSON with one reading: fast for plain bodies, exact for odd ones, and both agree."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlcycle_nb.serving.refusals import Problem
from mlcycle_nb.serving.strict_json import DEPTH_LIMIT, count_keys, loads, read_exactly

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


@given(DOCUMENTS)
@example({"a:b": ["c:d", {"e": "]["}]})
@example([[[{"a": 1}]], {"b": {"c": []}}])
def test_reads_what_json_reads(document: Any) -> None:
    """Whatever the standard library writes is read back, by the fast way and by the exact one."""
    body = json.dumps(document).encode()

    assert loads(body) == document
    assert read_exactly(body) == document


def keys_of(document: Any) -> int:
    if isinstance(document, dict):
        return len(document) + sum(keys_of(value) for value in document.values())
    return sum(keys_of(item) for item in document) if isinstance(document, list) else 0


@given(DOCUMENTS)
def test_never_counts_too_many_keys(document: Any) -> None:
    """Counting fewer keys only costs time; counting more would let a duplicate pass."""
    assert count_keys(document) <= keys_of(document)


@given(DOCUMENTS, TEXTS, st.integers(0, 3))
def test_duplicates_never_pass(document: Any, key: str, depth: int) -> None:
    """A key given twice is found, wherever it is and however the other texts look."""
    name = json.dumps(key)
    body = f"{{{name}:{json.dumps(document)},{name}:1}}"
    for _ in range(depth):
        body = f'[0,{{"x:":{body}}}]'

    with pytest.raises(Problem) as caught:
        loads(body.encode())
    assert caught.value.reason == "duplicate_key"


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize(
    "prefix", ["", '"]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",', '"\\"]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",']
)
def test_depth(opening: str, prefix: str) -> None:
    """One level more than allowed is refused, also when texts hold brackets; the limit itself is not."""
    closing = "]" if opening == "[" else "}"

    def nested(levels: int) -> bytes:
        return f"[{prefix}{opening * (levels - 1)}1{closing * (levels - 1)}]".encode()

    loads(nested(DEPTH_LIMIT))
    with pytest.raises(Problem) as caught:
        loads(nested(DEPTH_LIMIT + 1))
    assert caught.value.reason == "too_deep"


@pytest.mark.parametrize("body", [b"[1]]", b"{'a':1}", b"[1,]", b"[01]", b"[1] x", b"\xef\xbb\xbf[]", b"nul"])
def test_not_json(body: bytes) -> None:
    """What is no JSON is 400, whoever notices."""
    with pytest.raises(Problem) as caught:
        loads(body)
    assert (caught.value.status, caught.value.reason) == (400, "bad_json")
