"""What can go wrong. Every exception says what, where, and what was expected; its class says who must act.

``Error`` is the base of all. Python's own exceptions mean what they always do: ``TypeError`` and ``ValueError``
for an argument that is none, ``BufferError`` for a tensor that exports no memory, and whatever an iterator of
tensors raises.
"""

from __future__ import annotations

__all__ = [
    "CancelledError",
    "ConflictError",
    "DamagedError",
    "DeniedError",
    "Error",
    "LocalStateError",
    "LostRaceError",
    "NotAtTipError",
    "NotFoundError",
    "OutcomeUnknownError",
    "StorageError",
    "TransientError",
    "UntrustedError",
    "UsageError",
    "WrongBaseError",
]


class Error(Exception):
    """An error of tensorpatch. After it everything that existed before is unchanged."""

    kind: str
    """A short stable name: the library's kind, or a closer one, such as ``lost_race``."""
    error_class: str | None
    """The stable class of the format's specification, for errors about a patch."""
    offset: int | None
    """Where in the patch file, in bytes."""

    def __init__(
        self, message: str, kind: str = "io", error_class: str | None = None, offset: int | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.error_class = error_class
        self.offset = offset

    def __reduce__(self) -> tuple[type[Error], tuple[str, str, str | None, int | None]]:
        return type(self), (str(self), self.kind, self.error_class, self.offset)

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later, with nothing done about it."""
        return False


class UsageError(Error):
    """The request cannot be carried out, or would do harm."""


class DamagedError(Error):
    """A checkpoint, patch or record is damaged, or not what it should be."""


class WrongBaseError(Error):
    """The patch was made from another base."""


class ConflictError(Error):
    """The stream is not as expected: another publisher was faster, or it is another stream."""


class LostRaceError(ConflictError):
    """Another publisher committed this version first. Call ``Publisher.catch_up`` and publish again."""


class NotAtTipError(ConflictError):
    """The stream has versions of another publisher. Call ``Publisher.catch_up`` and publish again."""


class NotFoundError(Error):
    """There is no such stream, version, or part of a version."""


class UntrustedError(Error):
    """A record is not signed by a trusted key."""


class LocalStateError(Error):
    """Local files are damaged, or were changed while in use."""


class StorageError(Error):
    """Input or output failed: a disk, the network, or the store."""


class TransientError(StorageError):
    """The store or the network failed in a way that may pass."""

    @property
    def retryable(self) -> bool:
        """True: wait, and try again."""
        return True


class OutcomeUnknownError(TransientError):
    """The store did not say whether the version is committed. Publishing the same again finds out."""


class DeniedError(StorageError):
    """The store denies access: check the credentials."""


class CancelledError(Error):
    """The work was stopped, by ``cancel`` or by closing what does it."""


_CLASSES: dict[str, type[Error]] = {
    "refused": UsageError,
    "bad_input": DamagedError,
    "wrong_base": WrongBaseError,
    "conflict": ConflictError,
    "lost_race": LostRaceError,
    "not_at_tip": NotAtTipError,
    "not_found": NotFoundError,
    "untrusted": UntrustedError,
    "local_damage": LocalStateError,
    "io": StorageError,
    "transient": TransientError,
    "outcome_unknown": OutcomeUnknownError,
    "denied": DeniedError,
    "cancelled": CancelledError,
}


_HINTS = {
    "say whether such tensors are kept or removed": (
        "partial=True keeps them, removing=True removes them"
    ),
    "nothing can be kept in the user's cache": "give the publisher a directory of its own by baseline=",
    "allow its weights to be replaced": "replace=True allows it",
    "allow it to be replaced": "replace=True allows it",
}
"""What the library leaves to its callers to name, as a part of its message, and what it is called here."""

_CODE_HINTS = {
    "lost_race": "call catch_up() and publish again",
    "not_at_tip": "call catch_up() and publish again",
}


def _hinted(code: str, message: str) -> str:
    """The message, and what a program in Python can do about it."""
    hint = _CODE_HINTS.get(code) or next((hint for part, hint in _HINTS.items() if part in message), None)
    return message if hint is None else f"{message}; {hint}"


def _made(kind: str, code: str, message: str, error_class: str | None, offset: int | None) -> Error:
    """The exception for an error of the native half; for a code that is new, that of its kind."""
    made = _CLASSES.get(code) or _CLASSES.get(kind) or Error
    return made(_hinted(code, message), code, error_class, offset)
