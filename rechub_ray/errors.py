"""What users see when something is wrong: what was expected, what was found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RechubError(Exception):
    """Base of every error that a user can mend.

    The command line prints it as one paragraph and exits with code 2; a traceback is for bugs only.

    Args:
        message: what is wrong, with the place (file, key, column) named.
        expected: what would have been right.
        got: what was found.
        hint: what to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
    ) -> None:
        self.message, self.expected, self.got, self.hint = message, expected, got, hint
        parts = [message if message.endswith("?") else message.rstrip(".") + "."]
        if expected is not None:
            parts.append(f"Expected: {str(expected).rstrip('.')}.")
        if got is not None:
            parts.append(f"Got: {str(got).rstrip('.')}.")
        if hint:
            parts.append(hint)
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


class ExportError(RechubError):
    """The exported model could not be made, or does not compute what the PyTorch model computes."""


class TrainingError(RechubError):
    """Training cannot go on (NaN or infinity in the loss or the gradients, for instance)."""


class ResourceError(RechubError):
    """The request does not fit the machines."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the nearest known name, else the list of known names.

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
    close = difflib.get_close_matches(str(name).lower(), by_small, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{by_small[close[0]]}'?"
    return f"Known: {', '.join(sorted(known))}." if known else "Nothing is known here."
