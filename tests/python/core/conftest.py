"""What the tests of the package share: states that change as a training step changes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest

State = dict[str, Any]


class Training:
    """A state of NumPy arrays that is trained, and the directory where it is published."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.random = numpy.random.default_rng(7)
        self.state: State = {
            "bias": self.random.standard_normal(97).astype(numpy.float32),
            "embed": self.random.standard_normal((301, 64)).astype(numpy.float16),
            "step": numpy.array(0, dtype=numpy.int64),
            "none": numpy.zeros((0, 3), dtype=numpy.uint8),
        }

    def train(self) -> State:
        """Changes one element in a hundred, and returns the state."""
        for name in ("bias", "embed"):
            flat = self.state[name].reshape(-1)
            chosen = self.random.choice(flat.size, max(1, flat.size // 100), replace=False)
            flat[chosen] += 1
        self.state["step"] += 1
        return self.state

    def copy(self) -> State:
        return {name: array.copy() for name, array in self.state.items()}

    def path(self, name: str) -> Path:
        return self.directory / name


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TENSORPATCH_POLL", "20ms")
    return Training(tmp_path)


def scattered(state: Mapping[str, Any], patches: Any) -> State:
    """A copy of a state with patches scattered into it, as an engine does."""
    result = {name: array.copy() for name, array in state.items()}
    for patch in patches:
        values = numpy.asarray(patch.values)
        if patch.indices is None:
            result[patch.name] = values.reshape(patch.shape).copy()
        else:
            result[patch.name].reshape(-1)[numpy.asarray(patch.indices)] = values
    return result
