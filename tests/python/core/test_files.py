"""Patches between checkpoints on disk and tensors in memory."""

from __future__ import annotations

import json

import numpy
import pytest
from conftest import Training

import tensorpatch


def test_a_patch_from_memory_makes_the_state_of_which_it_was_made(training: Training) -> None:
    base, patch = training.path("model.safetensors"), training.path("step.tpatch")
    tensorpatch.diff(None, training.state, patch)
    tensorpatch.apply(None, patch, base)
    before = tensorpatch.digest(base)
    assert before == tensorpatch.digest(training.state)

    report = tensorpatch.diff(base, training.train(), patch)
    assert report.base == before and report.kind == "delta"
    assert 0 < report.changed_elements < report.total_elements
    applied = tensorpatch.apply(base, patch, in_place=True)
    assert applied.target == report.target == tensorpatch.digest(base) == tensorpatch.digest(training.state)


def test_the_same_states_give_the_same_patch_whatever_they_are_in(training: Training) -> None:
    base = training.path("base.safetensors")
    tensorpatch.diff(None, training.state, training.path("full.tpatch"))
    tensorpatch.apply(None, training.path("full.tpatch"), base)
    old, new = training.copy(), training.train()
    made = []
    for number, (left, right) in enumerate(
        [(base, new), (old, new), (old.items(), reversed(list(new.items()))), (base, iter(new.items()))]
    ):
        patch = training.path(f"{number}.tpatch")
        tensorpatch.diff(left, right, patch, threads=1 + number)
        made.append(patch.read_bytes())
    assert len(set(made)) == 1


def test_a_target_without_a_tensor_is_an_error_unless_it_is_partial(training: Training) -> None:
    old, patch = training.copy(), training.path("step.tpatch")
    some = {"bias": training.train()["bias"]}
    with pytest.raises(tensorpatch.UsageError, match="embed"):
        tensorpatch.diff(old, some, patch)
    assert not patch.exists()
    report = tensorpatch.diff(old, some, patch, partial=True)
    assert report.target == tensorpatch.digest({**old, **some})


def test_a_patch_is_refused_by_another_base(training: Training) -> None:
    patch, other = training.path("step.tpatch"), training.path("other.safetensors")
    old = training.copy()
    tensorpatch.diff(old, training.train(), patch)
    tensorpatch.diff(None, training.train(), training.path("full.tpatch"))
    tensorpatch.apply(None, training.path("full.tpatch"), other)
    bytes_before = other.read_bytes()
    with pytest.raises(tensorpatch.WrongBaseError) as caught:
        tensorpatch.apply(other, patch, in_place=True)
    assert caught.value.kind == caught.value.error_class == "wrong_base"
    assert caught.value.offset is not None and not caught.value.retryable
    assert other.read_bytes() == bytes_before


def test_a_damaged_patch_says_where(training: Training) -> None:
    patch = training.path("step.tpatch")
    tensorpatch.diff(None, training.state, patch)
    damaged = bytearray(patch.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    patch.write_bytes(damaged)
    with pytest.raises(tensorpatch.DamagedError) as caught:
        tensorpatch.inspect(patch)
    assert caught.value.offset is not None and caught.value.error_class == "checksum"


def test_reports_are_frozen_and_have_plain_dicts(training: Training) -> None:
    patch = training.path("step.tpatch")
    tensorpatch.diff(None, training.state, patch)
    info = tensorpatch.inspect(patch)
    assert info.tensors == tuple(sorted(training.state)) and info.files == ("model.safetensors",)
    assert json.loads(json.dumps(info.to_dict()))["kind"] == "full"
    with pytest.raises(AttributeError):
        info.kind = "delta"  # type: ignore[misc]


def test_a_state_that_is_none_is_a_type_error(training: Training) -> None:
    with pytest.raises(TypeError, match="a state is a path"):
        tensorpatch.digest(7)  # type: ignore[arg-type]
    with pytest.raises(tensorpatch.UsageError, match="threads"):
        tensorpatch.digest(training.state, threads=0)
    with pytest.raises(tensorpatch.UsageError, match="either"):
        tensorpatch.apply("base", "patch", "out", in_place=True)


def test_an_error_of_an_iterator_leaves_no_patch(training: Training) -> None:
    class Broken(Exception):
        pass

    def tensors():  # type: ignore[no-untyped-def]
        yield "bias", training.state["bias"]
        raise Broken

    with pytest.raises(Broken):
        tensorpatch.diff(None, tensors(), training.path("step.tpatch"))
    assert not list(training.directory.glob("step*"))


def test_conversion_goes_to_another_format_and_back(training: Training) -> None:
    path = training.path
    old = {"w": training.state["embed"].copy()}
    tensorpatch.diff(None, old, path("full.tpatch"))
    tensorpatch.apply(None, path("full.tpatch"), path("old.safetensors"))
    new = {"w": training.train()["embed"]}
    tensorpatch.diff(old, new, path("step.tpatch"))
    report = tensorpatch.convert(
        path("step.tpatch"),
        path("delta"),
        to="slime",
        base=path("old.safetensors"),
        version="2",
        base_version="1",
    )
    assert report.changed_tensors == 1
    back = tensorpatch.convert(path("delta"), path("new"), to="checkpoint", base=path("old.safetensors"))
    assert back.source_version == "000002" and back.target == tensorpatch.digest(new)
    with pytest.raises(tensorpatch.UsageError, match="no format"):
        tensorpatch.convert(path("delta"), path("x"), to="other")  # type: ignore[arg-type]


def test_a_digest_tells_dtype_shape_and_name() -> None:
    zeros = numpy.zeros(4, dtype=numpy.float32)
    same = [{"w": zeros}, {"w": zeros.view(numpy.int32)}, {"w": zeros.reshape(2, 2)}, {"v": zeros}]
    assert len({tensorpatch.digest(state) for state in same}) == 4
    assert tensorpatch.digest({"w": zeros}, leaf_hash="blake3").startswith("blake3:")
