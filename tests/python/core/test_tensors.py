"""Tensors by DLPack, by the array interface, and as bytes."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

import tensorpatch

DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
}


def raw(array: Any, dtype: str) -> tensorpatch.Raw:
    return tensorpatch.Raw(dtype, array.shape, array.tobytes())


class Interface:
    """An array with the array interface alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def __array_interface__(self) -> Any:
        return self.array.__array_interface__

    def copy(self) -> Any:
        return self.array.copy()


@pytest.mark.parametrize(("kind", "dtype"), DTYPES.items())
def test_every_dtype_of_numpy_has_the_digest_of_its_bytes(kind: str, dtype: str) -> None:
    array = numpy.arange(24).reshape(2, 3, 4).astype(kind)
    expected = tensorpatch.digest({"w": raw(array, dtype)})
    assert tensorpatch.digest({"w": array}) == expected
    assert tensorpatch.digest({"w": Interface(array)}) == expected


def test_an_array_that_is_not_contiguous_is_read_in_the_order_of_its_elements() -> None:
    array = numpy.arange(24, dtype=numpy.int32).reshape(4, 6)
    for view in (array.T, array[:, 1:3], array[::-1], numpy.broadcast_to(array[0], (3, 6))):
        expected = tensorpatch.digest({"w": numpy.ascontiguousarray(view)})
        assert tensorpatch.digest({"w": view}) == expected
        assert tensorpatch.digest({"w": Interface(view)}) == expected
    assert tensorpatch.digest({"w": array[1:3]}) == tensorpatch.digest({"w": array[1:3].copy()})


def test_an_array_that_cannot_be_written_is_read() -> None:
    array = numpy.arange(6, dtype=numpy.float32)
    expected = tensorpatch.digest({"w": array})
    array.flags.writeable = False
    assert tensorpatch.digest({"w": array}) == expected


def test_scalars_and_empty_arrays_are_tensors() -> None:
    state = {"scalar": numpy.float32(3)[()], "empty": numpy.zeros((3, 0), dtype=numpy.int64)}
    state["scalar"] = numpy.array(3, dtype=numpy.float32)
    bytes_of = {name: raw(array, DTYPES[str(array.dtype)]) for name, array in state.items()}
    assert tensorpatch.digest(state) == tensorpatch.digest(bytes_of)


def test_raw_takes_any_buffer_of_the_right_length() -> None:
    contents = bytes(range(8))
    tensors = [
        tensorpatch.Raw("BF16", (2, 2), buffer)
        for buffer in (contents, bytearray(contents), memoryview(contents), numpy.frombuffer(contents, "u1"))
    ]
    assert len({tensorpatch.digest({"w": tensor}) for tensor in tensors}) == 1
    assert tensors[0].shape == (2, 2) and tensors[0].dtype == "BF16"
    with pytest.raises(ValueError, match="8 bytes, not 7"):
        tensorpatch.Raw("BF16", (2, 2), contents[1:])
    with pytest.raises(ValueError, match="no dtype"):
        tensorpatch.Raw("bf16", (2, 2), contents)
    with pytest.raises(ValueError, match="whole bytes"):
        tensorpatch.Raw("F4", (3,), b"12")
    with pytest.raises(ValueError, match="too large"):
        tensorpatch.Raw("F32", (1 << 40, 1 << 40), contents)


def test_what_is_no_tensor_is_named_in_the_error() -> None:
    with pytest.raises(TypeError, match=r'tensor "model\.w": a list is no tensor'):
        tensorpatch.digest({"model.w": [1, 2]})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r'tensor "w": .*<c16'):
        tensorpatch.digest({"w": Interface(numpy.zeros(2, dtype=numpy.complex128))})
    with pytest.raises(TypeError, match=">f4"):
        tensorpatch.digest({"w": Interface(numpy.zeros(2, dtype=">f4"))})
    with pytest.raises(tensorpatch.UsageError, match="twice"):
        tensorpatch.digest([("w", numpy.zeros(2)), ("w", numpy.zeros(2))])


class Hostile:
    """A producer whose array interface says what is not so."""

    def __init__(self, **interface: Any) -> None:
        right = {"version": 3, "typestr": "<f4", "shape": (2,), "data": (0, True)}
        self.__array_interface__ = {**right, **interface}


@pytest.mark.parametrize(
    "interface",
    [
        {},
        {"data": (2**64 - 1, True)},
        {"shape": (1 << 62, 1 << 62)},
        {"shape": (-1,)},
        {"shape": "four"},
        {"data": None},
        {"typestr": "<f3"},
        {"strides": (8,)},
    ],
)
def test_a_producer_that_says_what_cannot_be_is_refused(interface: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError, BufferError, AttributeError)):
        tensorpatch.digest({"w": Hostile(**interface)})


def test_an_object_whose_export_is_no_capsule_is_refused() -> None:
    class Liar:
        def __dlpack__(self, **_: Any) -> Any:
            return "capsule"

    with pytest.raises(TypeError):
        tensorpatch.digest({"w": Liar()})


def test_a_capsule_that_a_consumer_took_is_refused() -> None:
    class Taken:
        def __init__(self) -> None:
            self.capsule = numpy.arange(3).__dlpack__()

            class Once:
                def __dlpack__(_, **__: Any) -> Any:  # noqa: N805
                    return self.capsule

                def __dlpack_device__(_) -> tuple[int, int]:  # noqa: N805
                    return (1, 0)

            self.array = numpy.from_dlpack(Once())

        def __dlpack__(self, **_: Any) -> Any:
            return self.capsule

    with pytest.raises(ValueError, match="capsule|PyCapsule"):
        tensorpatch.digest({"w": Taken()})


def test_a_tensor_elsewhere_is_copied_by_its_own_method_or_refused() -> None:
    class Device:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, **_: Any) -> Any:
            raise AssertionError("read on the device")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

    class Moving(Device):
        def cpu(self) -> Any:
            return self.array

    array = numpy.arange(3)
    assert tensorpatch.digest({"w": Moving(array)}) == tensorpatch.digest({"w": array})
    with pytest.raises(BufferError, match="copy it to the host"):
        tensorpatch.digest({"w": Device(array)})
