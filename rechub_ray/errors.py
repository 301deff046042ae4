"""Errors that a user can mend: what is wrong, what was expected, what was found, what to do."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

MASK = "***"
_WORD = re.compile(r"\S{201,}")
_KEYS_HINT = "Keys belong in the environment (AWS_ACCESS_KEY_ID and the like), not in a URI."
_USER = re.compile(r"(?<=://)(?:[^\s/@:'\"]+:(?!\d+/)[^\s@'\"]*|[^\s/@'\"]*)@")  # first: a "/" in a secret
_PARAMETER = re.compile(r"([?&](?:[\w-]*(?:key|secret|token|passw|credential)[\w-]*|sig)=)[^&\s'\"]+", re.IGNORECASE)


class RechubError(Exception):
    """Base of every error that a user can mend.

    The command line prints it as one paragraph and exits with code 2; a traceback is for bugs only. Keys in URIs are
    masked, wherever they come from, and long text is cut.

    Args:
        message: what is wrong, with the place (file, key, column) named.
        expected: what would have been right.
        got: what was found.
        hint: what to do.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
    ) -> None:
        texts = [None if text is None else masked(str(text)) for text in (message, expected, got, hint)]
        if texts != [None if text is None else str(text) for text in (message, expected, got, hint)]:
            texts[3] = f"{texts[3]} {_KEYS_HINT}" if texts[3] else _KEYS_HINT
            message, expected, got, hint = str(texts[0]), texts[1], texts[2], texts[3]
        self.message, self.expected, self.got, self.hint = message, expected, got, hint
        message = _bounded(message, 600)
        parts = [message if message.endswith("?") else message.rstrip(".") + "."]
        if expected is not None:
            parts.append(f"Expected: {_bounded(' '.join(str(expected).split()), 600).rstrip('.')}.")
        if got is not None:
            parts.append(f"Got: {_bounded(' '.join(str(got).split()), 400).rstrip('.')}.")
        if hint:
            parts.append(_bounded(hint, 1000))
        super().__init__(" ".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        # keyword-only arguments do not survive Exception's own pickling, and errors cross process borders
        return (_rebuild, (type(self), self.message, self.expected, self.got, self.hint))


def _rebuild(cls: type[RechubError], message: str, expected: object, got: object, hint: str | None) -> RechubError:
    return cls(message, expected=expected, got=got, hint=hint)


class ConfigError(RechubError):
    """The configuration is wrong; found on the driver, before any worker starts."""


class SchemaError(RechubError):
    """The feature schema is wrong, or a component asks it for what it does not have."""


class DataError(RechubError):
    """A file, row or value of the data is wrong; names the file."""


class CheckpointError(RechubError):
    """A checkpoint is missing, incomplete, damaged, or belongs to another run."""


class WriteError(RechubError):
    """A file cannot be written: a full disk, a folder without permission. Another start may succeed."""


class ExportError(RechubError):
    """The exported model could not be made, or does not compute what the PyTorch model computes."""


class TrainingError(RechubError):
    """Training cannot go on (NaN or infinity in the loss or the gradients, for instance)."""


class ResourceError(RechubError):
    """The request does not fit the machines."""


def shown(value: object, limit: int = 200) -> str:
    """Return a value as a message quotes it: on one line, cut in the middle beyond `limit` characters.

    Example:
        >>> shown("a\\nb"), shown(3), shown("x" * 10_000, 9)
        ("'a\\\\nb'", '3', "'xxxx...xx'")
    """
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut(str(value), limit))
    return f"'{text}'" if isinstance(value, str) else text


def cut(text: str, limit: int) -> str:
    """Return at most `limit` characters of a text, >= 4: its head, three dots, its tail."""
    tail = (limit - 3) // 3
    return text if len(text) <= limit else f"{text[: limit - 3 - tail]}...{text[len(text) - tail :]}"


def _bounded(text: str, limit: int) -> str:
    """Return a text with long words, lines and lists of lines cut, and without a terminal's control characters."""
    lines = [
        cut("".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in _WORD.sub(_cut_word, line)), limit)
        for line in text.split("\n")
    ]
    return "\n".join(lines if len(lines) <= 100 else [*lines[:30], "...", *lines[-69:]])


def _cut_word(match: re.Match[str]) -> str:
    return cut(match[0], 200)


def masked(text: str) -> str:
    """Return `text` with the keys of every URI in it replaced by `***`; a masked URI opens with the environment's keys.

    Args:
        text: a path, a URI, or any text that holds some.

    Example:
        >>> masked("cannot open 's3://KEY:SECRET@bucket/data?scheme=http'")
        "cannot open 's3://***@bucket/data?scheme=http'"
        >>> masked("abfs://box/data?account_key=abc")
        'abfs://box/data?account_key=***'
    """
    return _PARAMETER.sub(rf"\g<1>{MASK}", _USER.sub(f"{MASK}@", text))


@contextlib.contextmanager
def named(place: str) -> Iterator[None]:
    """Add a component's place in the configuration to an error that does not name it.

    Raises:
        ConfigError: in the place of a RechubError whose message does not name `place`.
    """
    try:
        yield
    except RechubError as error:
        if f"'{place}" in error.message:
            raise
        raise ConfigError(
            f"'{place}': {error.message}", expected=error.expected, got=error.got, hint=error.hint
        ) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the nearest known name, else with all known names.

    Example:
        >>> nearest("drpout", ["dropout", "hidden_units"])
        "Did you mean 'dropout'?"
        >>> nearest("DeepFM", ["deepfm", "fm"])
        "Did you mean 'deepfm'?"
        >>> nearest("x", ["dropout", "hidden_units"])
        'Known: dropout, hidden_units.'
    """
    known = list(known)
    by_small = {item.lower(): item for item in known}
    close = difflib.get_close_matches(str(name)[:200].lower(), by_small, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{by_small[close[0]]}'?"
    return f"Known: {', '.join(sorted(known))}." if known else "Nothing is known here."
