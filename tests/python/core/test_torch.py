"""Tensors of torch, on the processor."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

import measure
import pytest
from conftest import Training

import tensorpatch

torch = pytest.importorskip("torch")

DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "float4_e2m1fn_x2": "F4",
}


def tensor_of(kind: str) -> Any:
    """Twelve elements of random bits."""
    dtype = getattr(torch, kind)
    if kind == "bool":
        return torch.randint(0, 2, (3, 4)).bool()
    width = torch.empty(0, dtype=dtype).element_size()
    return torch.randint(0, 256, (3, 4 * width), dtype=torch.uint8).view(dtype)


def bytes_of(tensor: Any) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.mark.parametrize(("kind", "dtype"), DTYPES.items())
def test_every_dtype_goes_in_and_comes_out_bit_for_bit(kind: str, dtype: str, tmp_path: Path) -> None:
    tensor = tensor_of(kind)
    # Two elements of fp4 are one of torch's.
    shape = (3, 8) if dtype == "F4" else (3, 4)
    raw = tensorpatch.Raw(dtype, shape, bytes_of(tensor))
    assert tensorpatch.digest({"w": tensor}) == tensorpatch.digest({"w": raw})
    tensorpatch.diff(None, {"w": tensor}, tmp_path / "full.tpatch")
    (patch,) = tensorpatch.patches(tmp_path / "full.tpatch")
    assert (patch.dtype, patch.shape) == (dtype, shape)
    back = torch.from_dlpack(patch.values)
    assert back.dtype == tensor.dtype and back.shape == tensor.shape and bytes_of(back) == bytes_of(tensor)


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "float4_e2m1fn_x2"])
def test_changes_are_scattered_into_tensors_of_every_width(kind: str, training: Training) -> None:
    tensor = torch.randint(0, 256, (64, 128), dtype=torch.uint8).view(getattr(torch, kind))
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        publisher.publish({"w": tensor})
        replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
        replica.pull()
        served = tensor.clone()
        flat = tensor.view(torch.uint8).reshape(-1)
        flat[[7, 8, 4000]] ^= 0x55
        published = publisher.publish({"w": tensor})
        prepared = replica.prepare()
        (patch,) = tensorpatch.patches(prepared)
        assert patch.indices is not None
        indices, values = torch.from_dlpack(patch.indices), torch.from_dlpack(patch.values)
        width = torch.uint8 if tensor.element_size() == 1 else torch.int16
        served.view(width).reshape(-1)[indices] = values.view(width)
        assert tensorpatch.digest({"w": served}) == published.digest == prepared.digest
        replica.activate(prepared)
        # The same, as changes that were found elsewhere.
        flat[[1, 5000]] ^= 0x11
        changed = (tensor.view(width).reshape(-1) != served.view(width).reshape(-1)).nonzero().reshape(-1)
        changes = [("w", changed, tensor.view(width).reshape(-1)[changed].view(tensor.dtype))]
        assert publisher.publish_sparse(changes).digest == tensorpatch.digest({"w": tensor})


def test_views_and_parameters_are_read_as_their_elements_are() -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    for view in (tensor.T, tensor[:, ::2], tensor[1:3], tensor[0].expand(3, 6)):
        assert tensorpatch.digest({"w": view}) == tensorpatch.digest({"w": view.contiguous()})
    parameter = torch.nn.Parameter(tensor)
    assert parameter.requires_grad
    assert tensorpatch.digest({"w": parameter}) == tensorpatch.digest({"w": tensor})
    assert tensorpatch.digest({"w": torch.tensor(3.5)}) == tensorpatch.digest({"w": torch.tensor([3.5])[0]})
    assert tensorpatch.digest({"w": torch.zeros(0, 3)}) == tensorpatch.digest({"w": torch.ones(0, 3)})


def test_what_has_no_memory_is_refused() -> None:
    with pytest.raises((BufferError, ValueError), match='tensor "w"'):
        tensorpatch.digest({"w": torch.zeros(3, device="meta")})
    with pytest.raises((BufferError, TypeError, RuntimeError, NotImplementedError)):
        tensorpatch.digest({"w": torch.zeros(3, 3).to_sparse()})
    with pytest.raises(TypeError, match="no dtype of safetensors"):
        tensorpatch.digest({"w": torch.zeros(3, dtype=torch.complex128)})


def test_a_tensor_that_is_distributed_is_refused_with_the_way_to_publish_it(training: Training) -> None:
    from torch import distributed
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        state = {"0.weight": distribute_tensor(torch.zeros(4, 4), mesh, [Shard(0)])}
        with tensorpatch.Publisher(training.path("stream")) as publisher:
            with pytest.raises(tensorpatch.UsageError, match=r'"0\.weight" is distributed .*RankPublisher.*rank_state'):
                publisher.publish(state)
            whole = {name: tensor.full_tensor() for name, tensor in state.items()}
            assert publisher.publish(whole).digest == tensorpatch.digest(whole)
    finally:
        distributed.destroy_process_group()


def test_the_example_of_processes_that_publish_together_runs(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    text = (Path(__file__).parents[3] / "docs/engines.md").read_text()
    (example,) = [
        block for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "rank_state" in block
    ]
    monkeypatch.chdir(training.directory)

    def train(model: Any) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
        fully_shard(model, mesh=distributed.init_device_mesh("cpu", (1,)))
        exec(example.replace("s3://bucket/run-7", "run-7"), {"model": model, "train": train})
        published = {name: tensor.full_tensor().bfloat16() for name, tensor in model.state_dict().items()}
    finally:
        distributed.destroy_process_group()
    pulled = tensorpatch.Replica("run-7", "replica").pull()
    assert (pulled.version, pulled.digest) == (3, tensorpatch.digest(published))


def test_the_dtype_to_be_served_is_one_of_torch() -> None:
    from tensorpatch.torch.names import dtype_named

    assert dtype_named("bfloat16") is dtype_named(torch.bfloat16) is torch.bfloat16
    assert dtype_named(None) is None
    for wrong in ("bf16", "nn", 3):
        with pytest.raises(tensorpatch.UsageError, match=f"not {wrong!r}"):
            dtype_named(wrong)  # type: ignore[arg-type]


def test_a_module_is_published_and_its_replica_is_loaded(training: Training) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 4)).to(torch.bfloat16)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    with tensorpatch.Publisher(training.path("stream")) as publisher:
        for _ in range(3):
            module(torch.randn(2, 16, dtype=torch.bfloat16)).float().square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
            publisher.publish(module.state_dict())
            published = publisher.publish(module.named_parameters())
            assert published.unchanged
    replica = tensorpatch.Replica(training.path("stream"), training.path("replica"))
    replica.pull()
    assert replica.digest == tensorpatch.digest(dict(module.named_parameters()))


def resident(kind: str) -> int:
    """Bytes of this process by a line of its status: anonymous memory, and its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(kind)


def test_publishing_copies_no_tensor(training: Training) -> None:
    tensors = {f"w{number}": torch.randn(16 << 20, dtype=torch.bfloat16) for number in range(8)}
    with tensorpatch.Publisher(training.path("stream"), threads=1) as publisher:
        publisher.publish(tensors)
        for tensor in tensors.values():
            tensor[:: 1 << 14] += 1
        gc.collect()
        before, peak = resident("RssAnon"), 0

        def measured() -> Any:
            nonlocal peak
            for name, tensor in tensors.items():
                yield name, tensor
                peak = max(peak, resident("RssAnon"))

        published = publisher.publish(measured())
        peak = max(peak, resident("RssAnon"))
    assert published.changed_elements is not None and published.changed_elements > 0
    # All of it is 256 MiB, and one tensor 32.
    assert peak - before < 24 << 20


@pytest.mark.parametrize("tensor_mib", [8, 64])
def test_a_version_after_the_first_allocates_less_than_64_mib_beyond_one_tensor(tensor_mib: int, training: Training) -> None:
    state = measure.random_state(256, tensor_mib)
    with tensorpatch.Publisher(training.path("stream"), baseline=training.path("baseline")) as publisher:
        first = measure.growth(lambda: publisher.publish(state))
        measure.train(state)
        publisher.settle()
        grown = measure.growth(lambda: publisher.publish(state))
    print(f"{grown / measure.MIB:.1f} MiB, and {first / measure.MIB:.1f} MiB for the first version")
    assert grown < (64 + tensor_mib) * measure.MIB
