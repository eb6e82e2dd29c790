"""Arguments that cannot be what they are for are told by name, before anything is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, SupportsIndex

from tensorpatch.exceptions import UsageError


class _Rule(NamedTuple):
    expected: str
    is_one: Callable[[Any], bool]
    """Whether it has the right type."""
    is_in_range: Callable[[Any], bool] = lambda _: True


def _is_number(value: Any) -> bool:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return False
    # What can be taken only once is left alone.
    return not isinstance(value, Collection) or all(isinstance(text, str) for text in value)


def _is_mapping_of_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair)


def _at_least(least: int) -> Callable[[Any], bool]:
    return lambda value: bool(value >= least)


_TEXT = _Rule("a text", lambda value: isinstance(value, str))
_TEXTS = _Rule("a list of texts", _are_texts)
_PATH = _Rule("a path", lambda value: isinstance(value, str | os.PathLike))
_FLAG = _Rule("True or False", lambda value: isinstance(value, bool) or type(value).__module__ == "numpy")
_COUNT = _Rule("a number that is not negative", _is_number, _at_least(0))
_POSITIVE = _Rule("a number of 1 or more", _is_number, _at_least(1))
_VERSION = _Rule("the number of a version: they start at 1", _is_number, _at_least(1))
_SECONDS = _Rule("a number of seconds", lambda value: isinstance(value, int | float), _at_least(0))

_RULES = {
    "url": _Rule("a URL or a path", lambda value: isinstance(value, str | os.PathLike)),
    "directory": _PATH,
    "baseline": _PATH,
    "sign_key": _PATH,
    "name": _TEXT,
    "stream": _TEXT,
    "label": _TEXT,
    "lease": _TEXT,
    "attempt": _TEXT,
    "trust": _TEXTS,
    "carry": _TEXTS,
    "names": _TEXTS,
    "receipts": _TEXTS,
    "expect_tip": _VERSION,
    "version": _VERSION,
    "threads": _POSITIVE,
    "anchor_every": _COUNT,
    "rank": _COUNT,
    "world_size": _POSITIVE,
    "anchors": _FLAG,
    "create": _FLAG,
    "single_writer": _FLAG,
    "allow_unchanged": _FLAG,
    "inverse": _FLAG,
    "replace": _FLAG,
    "allow_code": _FLAG,
    "verify": _FLAG,
    "partial": _FLAG,
    "removing": _FLAG,
    "whole": _FLAG,
    "timeout": _SECONDS,
    "poll": _SECONDS,
    "stop": _Rule("a threading.Event", lambda value: hasattr(value, "is_set")),
    "storage": _Rule('names and values as texts, such as {"parallel_uploads": "16"}', _is_mapping_of_texts),
    "companions": _Rule("names, and contents or paths", lambda value: isinstance(value, Mapping)),
    "progress": _Rule("a callable, True, False or None", lambda value: callable(value) or isinstance(value, bool)),
}


def check(**arguments: object) -> None:
    """Raises ``TypeError`` for an argument of another type than it has, and ``UsageError`` for one out of range.
    None stands for what is not given."""
    for name, value in arguments.items():
        rule = _RULES[name]
        if value is None:
            continue
        told = f"{name} is {rule.expected}, not {value!r}"
        if not rule.is_one(value):
            raise TypeError(told)
        if not rule.is_in_range(value):
            raise UsageError(told, "refused")
