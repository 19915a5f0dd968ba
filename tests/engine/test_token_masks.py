"""Generated identifiers, differences and likeness of request bodies."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_langasync.engine.differences import difference, nearest
from pytest_langasync.identifiers import mask, replace_tokens, same_but_for_tokens
from pytest_langasync.models import canonical_json


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


NOW = datetime(2026, 11, 24, 9, 8, 7, 654321, tzinfo=UTC)
GENERATED = {
    "uuid": lambda: str(uuid.uuid4()),
    "uuid in capitals": lambda: str(uuid.uuid4()).upper(),
    "uuid as hex": lambda: uuid.uuid4().hex,
    "run id": lambda: f"run--{uuid.uuid4()}-0",
    "langchain id": lambda: f"lc_{uuid.uuid4()}",
    "call": lambda: f"call_{uuid.uuid4().hex[:22]}a1b2",
    "short call": lambda: "call_3f" + secrets.token_hex(4),
    "anthropic call": lambda: "toolu_01A09q90qw90lq91" + secrets.token_hex(3),
    "completion": lambda: f"chatcmpl-{uuid.uuid4().hex}",
    "token": lambda: secrets.token_hex(16),
    "ulid": lambda: "01ARZ3NDEK" + "".join(secrets.choice("0123456789ABCDEFGH") for _ in range(16)),
    "address": lambda: f"<Thing object at 0x7f{secrets.token_hex(5)}>",
    "path": lambda: f"/tmp/pytest-of-me/pytest-{secrets.randbelow(999)}/test_x0/data.csv",
    "isoformat": lambda: (NOW + timedelta(seconds=secrets.randbelow(10**9))).isoformat(),
    "zulu": lambda: f"2026-11-24T09:08:{10 + secrets.randbelow(50)}Z",
    "str of datetime": lambda: str(NOW + timedelta(microseconds=secrets.randbelow(10**9))),
    "compact": lambda: f"20261124T0908{10 + secrets.randbelow(50)}Z",
    "e-mail date": lambda: format_datetime(NOW + timedelta(seconds=secrets.randbelow(10**6))),
    "ctime": lambda: time.ctime(1_790_000_000 + secrets.randbelow(10**4)),
    "seconds": lambda: f"{1_790_000_000 + secrets.randbelow(10**6) / 7 + 0.001}",
    "epoch": lambda: f"timestamp: {time.time() + secrets.randbelow(10**6)}",
    "epoch in JSON": lambda: json.dumps({"timestamp": 1_790_000_000_000 + secrets.randbelow(9999)}),
    "after an escaped line end": lambda: json.dumps({"arguments": f"a\n{uuid.uuid4()}"}),
}


@pytest.mark.parametrize("make", GENERATED.values(), ids=GENERATED)
def test_generated_texts_are_tokens(make: Any) -> None:
    old, new = make(), make()
    while new == old:
        new = make()
    text = "Doc {0}, again {0}: summarise."
    mapping = same_but_for_tokens(body(text.format(old)), body(text.format(new)))
    assert mapping
    assert replace_tokens({"a": [f"See {old}."]}, mapping) == {"a": [f"See {new}."]}
    masked, tokens = mask(body(text.format(old)))
    assert masked == mask(body(text.format(new)))[0]
    assert tokens == list(mapping)


ORDINARY = [
    ("2026-11-24", "2026-11-25"),
    ("20261124", "20261125"),
    ("24 Nov 2026", "25 Nov 2026"),
    ("12:30:01", "12:30:02"),
    ("1790000000", "1790000001"),
    ("1790000000.12", "1790000000.13"),
    ("1490000000.1234567", "1490000000.1234568"),
    ("2200000000.1234567", "2200000000.1234568"),
    ("1.1790000000.1234", "1.1790000000.1235"),
    ("1790000000.1234.5", "1790000000.1235.5"),
    ("11790000000.1234", "11790000000.1235"),
    ("0x7fffffffffff", "0x7ffffffffffe"),
    ("12345678901234567890", "12345678901234567891"),
    ("call_management", "call_customers0"),
    ("call_center2024", "call_center2025"),
    ("run-20240101", "run-20240102"),
    ("batch_2024120112345678", "batch_2024120112345679"),
    ("file_gpt4turbo128k", "file_gpt4turbo256k"),
    ("deadbeefdeadbeef", "beefdeadbeefdead"),
    ("CHARACTERISATIONOFSOMETHIN", "CHARACTERISATIONOFANYTHING"),
    ("#3f2a9b", "#3f2a9c"),
    ("v1.2.3", "v1.2.4"),
    ("+49-151-12345678-123456", "+49-151-12345678-123457"),
    ("/tmp/pytest-of-me/pytest-1/test_a0", "/tmp/pytest-of-me/pytest-1/test_b0"),
    ("call_3f2a9b1c77d0aa01", "toolu_3f2a9b1c77d0aa01"),
    ("3f2a9b1c77d0aa01", "3f2a9b1c77d0aa0133"),
    ("<uuid:1>", "264d669c-3265-4251-96f4-bda54299eb7c"),
    ("Café", "Cafe\u0301"),
]


@pytest.mark.parametrize(("old", "new"), ORDINARY)
def test_ordinary_texts_are_none(old: str, new: str) -> None:
    assert same_but_for_tokens(body(f"On {old}, why?"), body(f"On {new}, why?")) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"seed": 1_790_000_000}, {"seed": 1_790_000_001}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"stop": None}, {}),
        ({"n": True}, {"n": 1}),
        ({"stop": ["a"]}, {"stop": ["a", "b"]}),
        ({"created_at": 7}, {"created_at": 8}),
        ({"created_at": 1_790_000_000}, {"created_at": "1790000000"}),
    ],
)
def test_other_values_must_be_equal(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert same_but_for_tokens(old, new) is None


def test_numbers_are_timestamps_only_under_a_telling_key() -> None:
    old, new = ({"meta": {"created_at": 1_790_000_000 + n}} for n in (0, 9))
    assert same_but_for_tokens(old, new) == {"1790000000": "1790000009"}
    assert mask(old) == ('{"meta":{"created_at":"<epoch:1>"}}', ["1790000000"])


@settings(deadline=None, database=None)
@given(st.floats(1.5e9, 2.2e9, exclude_max=True).map(lambda x: f"{x:.7f}".rstrip("0")))
def test_what_the_clock_returns_is_a_token_with_three_decimals(seconds: str) -> None:
    other = "1795802859.3891606"
    found = same_but_for_tokens(f"It is {seconds}, go.", f"It is {other}, go.")
    if len(seconds.partition(".")[2]) >= 3:
        assert found == ({seconds: other} if seconds != other else {})
        assert replace_tokens([f"{seconds} 1{seconds}", seconds], found) == [
            f"{other} 1{seconds}",
            other,
        ]
    else:
        assert found is None


def test_tokens_correspond_one_to_one() -> None:
    a, b, c, d = (str(uuid.uuid4()) for _ in range(4))
    assert same_but_for_tokens([a, b, a], [c, d, c]) == {a: c, b: d}
    assert same_but_for_tokens([a, b], [b, a]) == {a: b, b: a}
    assert same_but_for_tokens([a, a], [c, d]) is None
    assert same_but_for_tokens([a, b], [c, c]) is None
    assert same_but_for_tokens([a, a], [a, c]) is None
    assert same_but_for_tokens([a, b], [a, c]) == {b: c}


def test_swapped_and_nested_tokens_are_replaced_at_once() -> None:
    mapping = {"aa11": "bb22", "bb22": "aa11", "aa11bb22": "x", "1790000000": "1790000009"}
    answer = {"aa11": ["bb22 aa11bb22 1790000000 17900000001", 1_790_000_000, None]}
    expected = {"bb22": ["aa11 x 1790000009 17900000001", 1_790_000_000, None]}
    assert replace_tokens(answer, mapping) == expected
    assert replace_tokens(answer, {}) == answer


def test_real_temporary_paths(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = str(tmp_path).rstrip("0123456789") + "77"
    assert same_but_for_tokens(f"Read {tmp_path}", f"Read {other}") is not None
    first, second = (tmp_path_factory.mktemp("data") / "a.txt" for _ in range(2))
    assert first != second
    if "pytest-of-" in str(first):
        assert same_but_for_tokens(f"{first}!", f"{second}!") is not None


# ---- properties

words = st.text(max_size=30)
tokens = st.one_of(
    st.uuids().map(str),
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)).map(str),
    st.uuids().map(lambda value: f"call_{value.hex}"),
    st.integers(0, 999).map(lambda n: f"pytest-of-me/pytest-{n}/test_x{n}"),
    st.integers(1_500_000_000, 1_999_999_999).map(lambda n: f"timestamp={n}"),
)
leaves = st.none() | st.booleans() | st.integers() | words | tokens
texts = st.lists(words | tokens, max_size=4).map(" ".join)
bodies = st.recursive(
    leaves | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(words | st.just("created_at"), inner)
    ),
    max_leaves=12,
)
quiet = settings(max_examples=200, deadline=None, database=None)


@quiet
@given(bodies)
def test_masking_is_idempotent(value: Any) -> None:
    masked, _ = mask(value)
    assert mask(json.loads(masked)) == (masked, [])


@quiet
@given(bodies)
def test_equal_bodies_map_nothing(value: Any) -> None:
    assert same_but_for_tokens(value, json.loads(json.dumps(value))) == {}
    assert difference(value, value) == ""


@quiet
@given(bodies, bodies)
def test_same_is_equal_once_the_tokens_are_replaced(old: Any, new: Any) -> None:
    mapping = same_but_for_tokens(old, new)
    if mapping is not None:
        assert mask(old)[0] == mask(new)[0]
    assert (same_but_for_tokens(new, old) is None) == (mapping is None)


letters = st.text(st.characters(categories=["L", "P", "Zs"]), max_size=40)


@quiet
@given(letters, letters, st.lists(tokens, max_size=3))
def test_different_prompts_are_never_equal(old: str, new: str, shared: list[str]) -> None:
    tail = " | ".join(["", *shared])
    same = same_but_for_tokens(body(old + tail), body(new + tail))
    assert (same is not None) == (old == new)


@quiet
@given(st.lists(st.uuids().map(str), min_size=2, max_size=8, unique=True), st.data())
def test_replaced_answers_hold_no_old_token(ids: list[str], data: st.DataObject) -> None:
    half = len(ids) // 2
    olds, news = ids[:half], ids[half : 2 * half]
    mapping = same_but_for_tokens(body(" ".join(olds)), body(" ".join(news)))
    assert mapping == dict(zip(olds, news, strict=True))
    answer = {"text": data.draw(st.permutations(olds)), "json": json.dumps({"ids": olds})}
    replaced = canonical_json(replace_tokens(answer, mapping))
    assert not any(old in replaced for old in olds)
    assert all(new in replaced for new in news)


# ---- differences


def test_a_difference_names_paths_in_order() -> None:
    old = body("What is 2+2?", tools=[{"name": "f", "strict": False}], seed=1)
    new = body("What is 2+3?", tools=[{"name": "f", "strict": True}, {"name": "g"}], top_p=0.5)
    assert difference(old, new).splitlines() == [
        "messages[0].content: 'What is 2+2?' → 'What is 2+3?'",
        "seed: 1 → (absent)",
        "tools[0].strict: false → true",
        'tools[1]: (absent) → {"name":"g"}',
        "top_p: (absent) → 0.5",
    ]


def test_long_texts_are_cut_to_where_they_differ() -> None:
    old = body("x" * 5000 + "the CAT sat" + "y" * 5000)
    new = body("x" * 5000 + "the DOG sat" + "y" * 5000)
    (line,) = difference(old, new, width=80).splitlines()
    assert "CAT" in line and "DOG" in line
    assert len(line) <= 90
    assert "'abc' → 'abcd'" in difference("abc", "abcd")


@pytest.mark.parametrize("evil", ["\x1b[31m", "\r", "\u202e", "\u2028", "\x9b", "\ud800", "\x00"])
def test_no_control_character_gets_through(evil: str) -> None:
    cases = [(f"a{evil}", "b"), ({evil: 1}, {}), ({"k": {"x": evil}}, {}), ([], [[evil]])]
    for old, new in cases:
        text = difference(old, new)
        assert text and evil not in text
        assert all(line.isprintable() for line in text.splitlines())


def test_a_difference_stays_short() -> None:
    lines = difference({f"k{n:03}": 1 for n in range(99)}, {}).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "… and 79 more"


@quiet
@given(bodies, bodies)
def test_a_difference_is_empty_only_for_equal_bodies(old: Any, new: Any) -> None:
    text = difference(old, new)
    assert (text == "") == (canonical_json(old) == canonical_json(new))
    assert all(line.isprintable() for line in text.split("\n"))


# ---- likeness


def test_the_nearest_request_is_found() -> None:
    system = "You are a careful geographer. " * 40
    stored = [body(f"{system} What is the capital of {c}?") for c in ("Peru", "France", "Chad")]
    assert nearest(body(f"{system} What is the capital city of France?"), stored) == 1
    assert nearest(body(f"{system} What is the capital of Chad?"), iter(stored)) == 2


def test_nothing_is_near() -> None:
    assert nearest(body("x"), []) is None
    assert nearest({"input": "alpha beta gamma"}, [{"tools": ["one", "two", "three"]}]) is None


def test_likeness_of_huge_bodies_is_cheap() -> None:
    huge = [body(f"{'lorem ipsum ' * 500_000} {word}") for word in ("one", "two")]
    start = time.perf_counter()
    assert nearest(huge[1], huge) == 1
    assert time.perf_counter() - start < 5


def _agent(first: str, second: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "assistant", "tool_calls": [{"id": first, "type": "function"}]},
            {"role": "tool", "tool_call_id": second, "content": "42"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": first, "name": "f"}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": second}]},
        ],
        "input": [{"type": "function_call_output", "call_id": second, "output": "1"}],
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [("1b9d6bcd4", "91ab3f0c2"), ("abcdefgh", "zyxwvuts"), ("call 1", "call 2"), ("7", "8")],
)
def test_names_of_tool_calls_may_have_any_form(old: str, new: str) -> None:
    found = same_but_for_tokens(_agent(old, old), _agent(new, new))
    assert found is not None and found == ({old: new} if len(old) >= 6 else {})
    assert same_but_for_tokens(_agent(old, old), _agent(new, old)) is None, "not renamed alike"
    assert mask(_agent(old, old))[0] == mask(_agent(new, new))[0]
    elsewhere = {"messages": [{"content": old}]}
    assert same_but_for_tokens(elsewhere, {"messages": [{"content": new}]}) is None


def test_signed_urls_and_mixed_case() -> None:
    azure = "see https://x.blob.core.windows.net/a.png?sv=2024-01-01&se={}&sig={}&part=3"
    old, new = azure.format("2026-11-01T10:00Z", "aB%2F1"), azure.format("2026-11-02T11:00Z", "zz")
    assert same_but_for_tokens({"t": old}, {"t": new}) is not None
    assert same_but_for_tokens({"t": old}, {"t": new.replace("part=3", "part=4")}) is None
    assert same_but_for_tokens({"t": "a?st=CA"}, {"t": "a?st=NY"}) is None
    one, other = "toolu_aBcDeFgHiJkLmNoPq", "toolu_ZyXwVuTsRqPoNmLkJ"
    assert same_but_for_tokens({"t": one}, {"t": other}) == {one: other}
    names = ("file_getCurrentWeatherInTown", "file_getAnotherWeatherInTown")
    assert same_but_for_tokens({"t": names[0]}, {"t": names[1]}) is None
