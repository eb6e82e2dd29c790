"""What changes, for receivers that scatter it themselves."""

from __future__ import annotations

import numpy
import pytest
from conftest import Training, scattered

import tensorpatch


@pytest.mark.parametrize("profile", ["compact", "direct"])
@pytest.mark.parametrize("mode", ["in_place", "beside"])
@pytest.mark.parametrize("steps", [1, 3])
def test_scattering_the_patches_of_a_prepared_version_gives_its_state(
    training: Training, profile: str, mode: str, steps: int
) -> None:
    with tensorpatch.Publisher(training.path("stream"), profile=profile) as publisher:  # type: ignore[arg-type]
        publisher.publish(training.state)
        replica = tensorpatch.Replica(
            training.path("stream"),
            training.path("replica"),
            mode=mode,  # type: ignore[arg-type]
        )
        replica.pull()
        served = training.copy()
        for _ in range(steps):
            publisher.publish(training.train())
    prepared = replica.prepare()
    patches = list(tensorpatch.patches(prepared))
    assert {patch.name for patch in patches} == {"bias", "embed", "step"}
    embed = next(patch for patch in patches if patch.name == "embed")
    assert embed.dtype == "F16" and embed.shape == (301, 64)
    assert embed.indices is not None and len(embed.indices) == len(embed.values)
    assert (numpy.diff(numpy.asarray(embed.indices)) > 0).all()
    assert tensorpatch.digest(scattered(served, patches)) == prepared.digest
    assert replica.activate(prepared).digest == prepared.digest


def test_only_the_tensors_that_are_named_are_looked_at(training: Training) -> None:
    old = training.copy()
    tensorpatch.diff(None, old, training.path("full.tpatch"))
    tensorpatch.apply(None, training.path("full.tpatch"), training.path("old.safetensors"))
    tensorpatch.diff(old, training.train(), training.path("step.tpatch"))
    found = tensorpatch.patches(
        training.path("step.tpatch"), base=training.path("old.safetensors"), names=["bias"]
    )
    assert [patch.name for patch in found] == ["bias"]


def test_a_patch_file_over_a_checkpoint_gives_its_target(training: Training) -> None:
    old = training.copy()
    path = training.path("old.safetensors")
    tensorpatch.diff(None, old, training.path("full.tpatch"))
    tensorpatch.apply(None, training.path("full.tpatch"), path)
    training.train()
    # A tensor with another shape, and one that is new.
    training.state["bias"] = numpy.arange(5, dtype=numpy.float32)
    training.state["new"] = numpy.arange(6, dtype=numpy.int16).reshape(2, 3)
    report = tensorpatch.diff(old, training.state, training.path("step.tpatch"))
    patches = list(tensorpatch.patches(training.path("step.tpatch"), base=path))
    assert [patch.name for patch in patches if patch.indices is None] == ["bias", "new", "step"]
    assert tensorpatch.digest(scattered(old, patches)) == report.target
    whole = list(tensorpatch.patches(training.path("full.tpatch")))
    assert tensorpatch.digest(scattered({}, whole)) == tensorpatch.digest(old)
    tensorpatch.diff(None, training.state, training.path("other.tpatch"))
    tensorpatch.apply(None, training.path("other.tpatch"), training.path("other.safetensors"))
    with pytest.raises(tensorpatch.WrongBaseError):
        list(tensorpatch.patches(training.path("step.tpatch"), base=training.path("other.safetensors")))


def test_a_replica_that_holds_nothing_gives_every_tensor_whole(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
    replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
    prepared = replica.prepare()
    assert prepared.base_version is None
    assert tensorpatch.digest(scattered({}, tensorpatch.patches(prepared))) == prepared.digest
    assert list(tensorpatch.patches(replica.prepare())) == [] if replica.activate(prepared) else False


def test_activation_waits_for_no_iterator_and_is_refused_meanwhile(training: Training) -> None:
    state = {f"w{number}": numpy.zeros(1000, dtype=numpy.float32) for number in range(20)}
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(state)
        replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
        replica.pull()
        for array in state.values():
            array[3] = 1
        publisher.publish(state)
    prepared = replica.prepare()
    patches = tensorpatch.patches(prepared)
    next(patches)
    with pytest.raises(tensorpatch.UsageError, match="still being read"):
        replica.activate(prepared)
    assert len(list(patches)) == 19
    assert replica.activate(prepared).version == 2
    with pytest.raises(tensorpatch.UsageError, match="before"):
        list(tensorpatch.patches(prepared))


def test_an_iterator_that_is_dropped_lets_go_of_its_version(training: Training) -> None:
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish(training.state)
        replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
        replica.pull()
        publisher.publish(training.train())
    prepared = replica.prepare()
    patches = tensorpatch.patches(prepared)
    next(patches)
    patches.close()  # type: ignore[attr-defined]
    assert replica.activate(prepared).version == 2


def test_an_array_goes_to_numpy_without_a_copy_and_cannot_be_written(training: Training) -> None:
    tensorpatch.diff(None, training.state, training.path("full.tpatch"))
    patch = next(tensorpatch.patches(training.path("full.tpatch"), names=["bias"]))
    viewed, exported = numpy.asarray(patch.values), numpy.from_dlpack(patch.values)
    assert numpy.shares_memory(viewed, exported)
    assert not viewed.flags.writeable and not exported.flags.writeable
    assert patch.values.tobytes() == training.state["bias"].tobytes()
    # The array may go before what was made of it.
    del patch
    assert (viewed == training.state["bias"]).all()


def test_a_name_that_no_tensor_has_is_an_error(training: Training) -> None:
    tensorpatch.diff(None, training.state, training.path("full.tpatch"))
    with pytest.raises(tensorpatch.UsageError, match='there is no tensor "typo"'):
        list(tensorpatch.patches(training.path("full.tpatch"), names=["bias", "typo"]))


def test_an_array_for_which_numpy_has_no_type_says_what_takes_it(training: Training) -> None:
    state = {"w": tensorpatch.Raw("BF16", (2, 2), bytes(range(8)))}
    tensorpatch.diff(None, state, training.path("full.tpatch"))
    [patch] = tensorpatch.patches(training.path("full.tpatch"))
    with pytest.raises(TypeError, match=r"torch\.from_dlpack\(\), or tobytes\(\)"):
        numpy.asarray(patch.values)
    assert patch.values.tobytes() == bytes(range(8))
