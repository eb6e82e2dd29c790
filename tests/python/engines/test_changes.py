"""Change detection, on tensors of a CPU: the code is the same for those of a device."""

from __future__ import annotations

import pytest
import torch

from tensorpatch.torch import Snapshot, changed
from tensorpatch.torch import changes as module
from tensorpatch.torch.changes import bits

DTYPES = [
    torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float4_e2m1fn_x2, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


def of_bytes(dtype: torch.dtype, count: int) -> torch.Tensor:
    if dtype is torch.bool:
        return torch.zeros(count, dtype=dtype)
    width = torch.empty(0, dtype=dtype).element_size()
    return torch.zeros(count * width, dtype=torch.uint8).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 7, 8, 1001])
def test_finds_the_elements_whose_bits_differ_in_every_dtype(dtype: torch.dtype, count: int) -> None:
    old = of_bytes(dtype, count)
    new = old.clone()
    places = sorted({0, count // 2, count - 1})
    width = new.element_size()
    for place in places:
        new.view(torch.uint8)[place * width] = 1
    assert changed(old, new).tolist() == places
    assert not changed(new, new.clone()).numel()


def test_a_flipped_sign_of_zero_is_a_change_and_an_equal_nan_is_none() -> None:
    old = torch.tensor([0.0, float("nan"), 1.0], dtype=torch.bfloat16)
    new = torch.tensor([-0.0, float("nan"), 1.0], dtype=torch.bfloat16)
    assert changed(old, new).tolist() == [0]


def test_slices_are_compared_as_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE", 16)
    old = torch.zeros(50, dtype=torch.bfloat16)
    new = old.clone()
    new[[0, 15, 16, 33, 49]] = 1
    assert changed(old, new).tolist() == [0, 15, 16, 33, 49]


def test_tensors_that_are_not_contiguous_are_compared_by_their_elements() -> None:
    old = torch.zeros(6, 4)
    new = old.clone()
    new[1, 2] = 5
    assert changed(old.t(), new.t()).tolist() == [2 * 6 + 1]


def test_tensors_of_two_shapes_or_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        changed(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="cannot compare"):
        changed(torch.zeros(2), torch.zeros(2).half())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_snapshot_and_its_changes_rebuild_the_new_tensor(dtype: torch.dtype) -> None:
    old = of_bytes(dtype, 100)
    new = old.clone()
    new.view(torch.uint8)[3 * new.element_size()] = 1
    snapshot = Snapshot()
    assert snapshot.update("w", old) is None
    change = snapshot.update("w", new)
    assert change is not None
    assert change.indices.tolist() == [3]
    assert change.values.dtype == dtype
    assert bits(change.values).tolist() == bits(new.view(torch.uint8).view(dtype))[3:4].tolist() or dtype.is_complex
    held = dict(snapshot.on_host())["w"]
    assert torch.equal(bits(held), bits(new))
    assert snapshot.update("w", new) is None


def test_a_snapshot_is_a_copy() -> None:
    tensor = torch.zeros(8)
    snapshot = Snapshot()
    snapshot.update("w", tensor)
    tensor[1] = 1
    change = snapshot.update("w", tensor)
    assert change is not None
    assert change.indices.tolist() == [1]


def test_a_tensor_that_changed_its_shape_has_to_be_sent_whole() -> None:
    snapshot = Snapshot()
    assert snapshot.missing("w", torch.zeros(2))
    snapshot.update("w", torch.zeros(2))
    assert not snapshot.missing("w", torch.zeros(2))
    assert snapshot.missing("w", torch.zeros(3))
    assert snapshot.missing("w", torch.zeros(2).half())
