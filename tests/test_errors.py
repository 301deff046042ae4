"""Errors say what was expected and found, survive pickling, and know the nearest name."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from rechub_ray import errors
from rechub_ray.errors import ConfigError, DataError, RechubError, masked, nearest

KINDS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, RechubError)]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "a is wrong."),
        ({"expected": 3}, "a is wrong. Expected: 3."),
        ({"got": "x."}, "a is wrong. Got: x."),
        ({"expected": 0, "got": False}, "a is wrong. Expected: 0. Got: False."),
        ({"hint": "Do b."}, "a is wrong. Do b."),
        ({"expected": "c", "got": "d", "hint": "Do b."}, "a is wrong. Expected: c. Got: d. Do b."),
    ],
)
def test_message(arguments: dict[str, object], text: str) -> None:
    assert str(ConfigError("a is wrong", **arguments)) == text  # type: ignore[arg-type]
    assert str(ConfigError("a is wrong.", **arguments)) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)
def test_every_kind_survives_pickling_and_copying(cls: type[RechubError]) -> None:
    error = cls("what", expected=[1, 2], got={"a": 1}, hint="Do b.")
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(again) is cls
        assert str(again) == str(error) == "what. Expected: [1, 2]. Got: {'a': 1}. Do b."
        assert (again.message, again.expected, again.got, again.hint) == ("what", [1, 2], {"a": 1}, "Do b.")


def test_a_subclass_of_ones_own_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(DataError("what")))
    assert isinstance(again, RechubError)
    assert again.expected is None


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("batchsize", ["batch_size", "seed"], "Did you mean 'batch_size'?"),
        ("DeepFM", ["deepfm", "fm"], "Did you mean 'deepfm'?"),
        ("zzz", ["b", "a"], "Known: a, b."),
        ("zzz", [], "Nothing is known here."),
        ("ab", iter(["ab_"]), "Did you mean 'ab_'?"),
    ],
)
def test_nearest(name: str, known: list[str], sentence: str) -> None:
    assert nearest(name, known) == sentence


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:SECRET@bucket/a", "s3://***@bucket/a"),
        ("s3://KEY:SE/C+R=T@bucket/a@b", "s3://***@bucket/a@b"),
        ("gs://TOKEN@bucket/a", "gs://***@bucket/a"),
        ("http://host:9000/a@b", "http://host:9000/a@b"),
        ("s3://bucket/user@host/file", "s3://bucket/user@host/file"),
        ("abfs://box/a?account_key=K&x=1&SAS_TOKEN=T", "abfs://box/a?account_key=***&x=1&SAS_TOKEN=***"),
        ("s3://b/a?scheme=http&region=eu", "s3://b/a?scheme=http&region=eu"),
        ("from s3://A:B@c/d to 's3://E:F@g/h'", "from s3://***@c/d to 's3://***@g/h'"),
        ("someone@example.org wrote a:b@c", "someone@example.org wrote a:b@c"),
    ],
)
def test_keys_in_uris_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize("place", ["message", "expected", "got", "hint"])
def test_no_error_shows_a_key(place: str) -> None:
    arguments: dict[str, Any] = {"message": "what", place: "'s3://KEY:SECRET@bucket'"}
    error = DataError(**arguments)
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert "SECRET" not in str(each)
        assert "s3://***@bucket" in str(each)
        assert str(each).count("Keys belong in the environment") == 1


@pytest.mark.parametrize("place", ["message", "expected", "got", "hint"])
@pytest.mark.parametrize("text", ["x" * 10_000, "x " * 5_000, "x\n" * 5_000, "\x1b[2J"])
def test_what_is_echoed_is_short_and_harmless(place: str, text: str) -> None:
    arguments: dict[str, Any] = {"message": "what", place: f"it is '{text}' all the same"}
    shown = str(DataError(**arguments))
    assert len(shown) < 1100
    assert "\x1b" not in shown
    assert "it is 'x" in shown or "it is '\\x1b" in shown
    assert "all the same" in shown


def test_lines_of_a_message_are_kept() -> None:
    assert str(ConfigError("sizes:\n  a  1\n  b  2")) == "sizes:\n  a  1\n  b  2."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("a\nb\t\x1b", r"'a\nb\t\x1b'"),
        ("ü x", "'ü x'"),
        (3, "3"),
        (None, "None"),
        ("\udc80", r"'\udc80'"),
    ],
)
def test_shown(value: object, text: str) -> None:
    assert errors.shown(value) == text
    assert len(errors.shown("x" * 1000)) == 202
