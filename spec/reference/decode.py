#!/usr/bin/env python3
"""Reads tensorpatch patches: a decoder in the order of the specification, for reading beside it.

    decode.py PATCH [--base FILE.safetensors] [-o OUT.safetensors]
    decode.py --vectors tests/conformance/v1
    decode.py --answer PATCH BASE TARGET        as run.py calls a decoder

It was written from `spec/format.md` and `spec/encodings/` alone, and needs Python 3.11 and the module `zstandard`.
"Section" in a comment is one of format.md; the chunk encodings are at the end of their file's name.
It reads forward, checks every rule but the contents of the safetensors headers in a layout (section 2.2 leaves
that to readers of layouts), and holds everything in memory.
"""

import argparse
import json
import struct
import sys
import time
import zlib
from array import array
from dataclasses import dataclass, field
from itertools import islice
from operator import mul
from pathlib import Path

import zstandard

assert sys.byteorder == "little", "arrays are read as they lie in memory"

State = dict[str, tuple[str, list[int], bytes]]  # name -> dtype, shape, bytes


class PatchError(Exception):
    """A refusal: one of the codes of section 12, and the offset of the field it is about."""

    def __init__(self, code: str, offset: int, what: str):
        super().__init__(f"{code} at {offset}: {what}")
        self.code, self.offset, self.what = code, offset, what


# Section 1. Conventions


class Fields:
    """The fields of `data[pos:end]`. An error has the offset of its field, or `at` where one is given: that of the
    frame (section 7.3) or of the payload (section 9) that the bytes come from."""

    def __init__(self, data: bytes, pos: int, end: int, at: int | None = None):
        self.data, self.pos, self.end, self.at = data, pos, end, at

    def invalid(self, offset: int, what: str) -> PatchError:
        return PatchError("invalid", offset if self.at is None else self.at, what)

    def limit(self, offset: int, what: str) -> PatchError:
        return PatchError("limit", offset if self.at is None else self.at, what)

    def left(self) -> int:
        return self.end - self.pos

    def bytes(self, length: int) -> bytes:
        if length > self.left():
            raise self.invalid(self.pos, f"a field of {length} bytes where {self.left()} are left")
        self.pos += length
        return self.data[self.pos - length : self.pos]

    def u8(self) -> int:
        return self.bytes(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.bytes(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.bytes(8), "little")

    def varint(self) -> int:
        start = self.pos
        value = 0
        for shift in range(0, 70, 7):
            if self.pos == self.end:
                raise self.invalid(start, "a varint that runs over the end")
            byte = self.data[self.pos]
            self.pos += 1
            value |= (byte & 127) << shift
            if byte < 128:
                if (byte == 0 and shift > 0) or value >> 64:
                    raise self.invalid(start, "a varint that is not the shortest or over 64 bits")
                return value
        raise self.invalid(start, "a varint of more than ten bytes")

    def string(self, longest: int) -> bytes:
        """u32 length, then UTF-8."""
        start = self.pos
        length = self.u32()
        if length > longest:
            raise self.invalid(start, f"a string of {length} bytes")
        raw = self.bytes(length)
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise self.invalid(start, "a string that is not UTF-8") from None
        return raw

    def finish(self):
        if self.left():
            raise self.invalid(self.pos, f"{self.left()} bytes are left over")


def unzstd(frame: bytes, length: int) -> bytes | None:
    """The `length` bytes in one zstd frame, or None if it is anything else. Never makes more than one byte too many."""
    try:
        parameters = zstandard.get_frame_parameters(frame)
        # The blocks are walked to find where the frame ends: it has to be the end of what holds it.
        pos = zstandard.frame_header_size(frame)
        last = 0
        while not last:
            head = int.from_bytes(frame[pos : pos + 3], "little")
            last, kind, size = head & 1, head >> 1 & 3, head >> 3
            pos += 3 + (1 if kind == 1 else size)
            if pos > len(frame):
                return None
        if pos + 4 * parameters.has_checksum != len(frame) or parameters.dict_id != 0:
            return None
        if frame[:4] != b"\x28\xb5\x2f\xfd":  # a skippable frame
            return None
        context = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        out = bytearray()
        with context.stream_reader(frame) as reader:
            while len(out) <= length and (piece := reader.read(length + 1 - len(out))):
                out += piece
    except zstandard.ZstdError:
        return None
    if parameters.content_size not in (length, zstandard.CONTENTSIZE_UNKNOWN):
        return None
    return bytes(out) if len(out) == length else None


# Section 4. The hashes: XXH3-128 with seed 0, and BLAKE3.

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64_1, P64_2, P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P64_4, P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def r32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def r64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def swap(value: int, width: int) -> int:
    return int.from_bytes(value.to_bytes(width, "little"), "big")


def fold(a: int, b: int) -> int:
    product = a * b
    return (product ^ product >> 64) & M64


def avalanche(h: int) -> int:
    h &= M64
    h = (h ^ h >> 37) * 0x165667919E3779F9 & M64
    return h ^ h >> 32


def avalanche_xxh64(h: int) -> int:
    h = (h ^ h >> 33) * P64_2 & M64
    h = (h ^ h >> 29) * P64_3 & M64
    return h ^ h >> 32


def xxh3_128(data: bytes) -> bytes:
    length = len(data)
    if length > 240:
        low, high = xxh3_long(data)
    elif length > 16:
        low, high = xxh3_to_240(data)
    else:
        low, high = xxh3_to_16(data)
    return (high << 64 | low).to_bytes(16, "big")


def xxh3_to_16(data: bytes) -> tuple[int, int]:
    length = len(data)
    if length > 8:
        low, high = r64(data, 0), r64(data, length - 8)
        m = (low ^ high ^ r64(SECRET, 32) ^ r64(SECRET, 40)) * P64_1
        m_low, m_high = (m & M64) + (length - 1 << 54) & M64, m >> 64
        high ^= r64(SECRET, 48) ^ r64(SECRET, 56)
        m_high = m_high + high + (high & M32) * (P32_2 - 1) & M64
        h = (m_low ^ swap(m_high, 8)) * P64_2
        return avalanche(h), avalanche((h >> 64) + m_high * P64_2)
    if length > 3:
        keyed = (r32(data, 0) | r32(data, length - 4) << 32) ^ r64(SECRET, 16) ^ r64(SECRET, 24)
        m = keyed * (P64_1 + (length << 2))
        high = (m >> 64) + (m << 1) & M64
        low = m & M64 ^ high >> 3
        low = (low ^ low >> 35) * 0x9FB21C651E98DF25 & M64
        return low ^ low >> 28, avalanche(high)
    if length > 0:
        low = data[0] << 16 | data[length >> 1] << 24 | data[length - 1] | length << 8
        high = swap(low, 4)
        high = (high << 13 | high >> 19) & M32
        low ^= r32(SECRET, 0) ^ r32(SECRET, 4)
        high ^= r32(SECRET, 8) ^ r32(SECRET, 12)
        return avalanche_xxh64(low), avalanche_xxh64(high)
    return (
        avalanche_xxh64(r64(SECRET, 64) ^ r64(SECRET, 72)),
        avalanche_xxh64(r64(SECRET, 80) ^ r64(SECRET, 88)),
    )


def xxh3_to_240(data: bytes) -> tuple[int, int]:
    length = len(data)
    low, high = length * P64_1 & M64, 0

    def mix(first: int, second: int, secret: int):
        nonlocal low, high
        a, b = r64(data, first), r64(data, first + 8)
        c, d = r64(data, second), r64(data, second + 8)
        low = low + fold(a ^ r64(SECRET, secret), b ^ r64(SECRET, secret + 8)) & M64 ^ (c + d & M64)
        high = high + fold(c ^ r64(SECRET, secret + 16), d ^ r64(SECRET, secret + 24)) & M64 ^ (a + b & M64)

    if length <= 128:
        for i in reversed(range((length - 1) // 32 + 1)):
            mix(16 * i, length - 16 * i - 16, 32 * i)
    else:
        for i in range(4):
            mix(32 * i, 32 * i + 16, 32 * i)
        low, high = avalanche(low), avalanche(high)
        for i in range(4, length // 32):
            mix(32 * i, 32 * i + 16, 3 + 32 * (i - 4))
        mix(length - 16, length - 32, 136 - 17 - 16)
    return (
        avalanche(low + high),
        -avalanche(low * P64_1 + high * P64_4 + length * P64_2) & M64,
    )


def xxh3_long(data: bytes) -> tuple[int, int]:
    length = len(data)
    # Within a block of 16 stripes of 8 words the accumulators are sums, in any order. So all words are combined with
    # their part of the secret at once (stripe `s` with the bytes from 8s on), and then multiplied half by half.
    stripes = (length - 1) // 64
    secret = b"".join(SECRET[8 * s : 8 * s + 64] for s in range(16)) * (stripes // 16 + 1)
    whole = data[: 64 * stripes]
    keyed = int.from_bytes(whole, "little") ^ int.from_bytes(secret[: 64 * stripes], "little")
    halves = memoryview(keyed.to_bytes(64 * stripes, "little")).cast("I").tolist()
    products = list(map(mul, halves[0::2], halves[1::2]))
    words = memoryview(whole).cast("Q").tolist()

    acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1]
    scramble = [r64(SECRET, 128 + 8 * i) for i in range(8)]
    for start in range(0, 8 * stripes, 128):
        end = min(start + 128, 8 * stripes)
        for i in range(8):
            acc[i] += sum(products[start + i : end : 8]) + sum(words[start + (i ^ 1) : end : 8])
        # The block that the last byte is in is not whole yet.
        if start + 128 <= (length - 1) // 1024 * 128:
            acc = [((a := x & M64) ^ a >> 47 ^ key) * P32_1 & M64 for x, key in zip(acc, scramble)]

    last = struct.unpack("<8Q", data[length - 64 :])
    for i in range(8):
        key = last[i] ^ r64(SECRET, 192 - 64 - 7 + 8 * i)
        acc[i] += (key & M32) * (key >> 32)
        acc[i ^ 1] += last[i]
    acc = [x & M64 for x in acc]

    def merge(at: int, start: int) -> int:
        pairs = (fold(acc[i] ^ r64(SECRET, at + 8 * i), acc[i + 1] ^ r64(SECRET, at + 8 * i + 8)) for i in (0, 2, 4, 6))
        return avalanche(start + sum(pairs))

    return merge(11, length * P64_1), merge(192 - 64 - 11, ~(length * P64_2))


BLAKE3_IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
BLAKE3_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def pack(words: array) -> int:
    return int.from_bytes(words.tobytes(), "little")


def unpack(value: int, lanes: int) -> array:
    return array("Q", value.to_bytes(8 * lanes, "little"))


def blake3_compress(lanes: int, cv: list[int], block: list[int], counter: int, length: int, flags: int) -> list[int]:
    """Compresses `lanes` blocks at once. Each number holds one word of each, 32 bits of every 64, so that sums and
    rotations do not run into the neighbour before they are masked."""
    one = int.from_bytes((1).to_bytes(8, "little") * lanes, "little")
    mask = one * M32
    v = cv + [one * BLAKE3_IV[i] for i in range(4)] + [counter, 0, one * length, one * flags]

    def rotate(x: int, by: int) -> int:
        return (x | x << 32) >> by & mask

    def mix(a: int, b: int, c: int, d: int, x: int, y: int):
        v[a] = v[a] + v[b] + x & mask
        v[d] = rotate(v[d] ^ v[a], 16)
        v[c] = v[c] + v[d] & mask
        v[b] = rotate(v[b] ^ v[c], 12)
        v[a] = v[a] + v[b] + y & mask
        v[d] = rotate(v[d] ^ v[a], 8)
        v[c] = v[c] + v[d] & mask
        v[b] = rotate(v[b] ^ v[c], 7)

    for _ in range(7):
        for i in range(4):
            mix(i, 4 + i, 8 + i, 12 + i, block[2 * i], block[2 * i + 1])
        for i in range(4):
            mix(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, block[8 + 2 * i], block[9 + 2 * i])
        block = [block[i] for i in BLAKE3_PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]


def blake3_chunks(data: bytes, lanes: int, first: int, root: int) -> list[array]:
    """The chaining values of `lanes` chunks of BLAKE3 (1024 bytes, or one that is shorter), an array for each word."""
    length = len(data) // lanes
    blocks = max((length + 63) // 64, 1)
    words = array("I", data.ljust(64 * blocks, b"\0") if lanes == 1 else data)
    one = pack(array("Q", [1]) * lanes)
    counter = pack(array("Q", range(first, first + lanes)))
    cv = [one * word for word in BLAKE3_IV]
    for b in range(blocks):
        block = [pack(array("Q", words[16 * b + i :: 16 * blocks])) for i in range(16)]
        flags = CHUNK_START * (b == 0) | (CHUNK_END | root) * (b == blocks - 1)
        cv = blake3_compress(lanes, cv, block, counter, min(64, length - 64 * b), flags)
    return [unpack(word, lanes) for word in cv]


def blake3(data: bytes) -> bytes:
    whole = max(len(data) - 1, 0) // 1024  # all chunks but the last, which may be shorter
    cvs = blake3_chunks(data[1024 * whole :], 1, whole, 0 if whole else ROOT)
    if whole:
        cvs = [a + b for a, b in zip(blake3_chunks(data[: 1024 * whole], whole, 0, 0), cvs)]
    # Neighbours are joined until one is left; the odd one at the end goes up as it is.
    while (count := len(cvs[0])) > 1:
        lanes = count // 2
        block = [pack(word[side : 2 * lanes : 2]) for side in (0, 1) for word in cvs]
        one = pack(array("Q", [1]) * lanes)
        flags = PARENT | (ROOT if count == 2 else 0)
        parents = blake3_compress(lanes, [one * word for word in BLAKE3_IV], block, 0, 64, flags)
        cvs = [unpack(parent, lanes) + word[2 * lanes :] for parent, word in zip(parents, cvs)]
    return struct.pack("<8I", *(word[0] for word in cvs))


# Section 2. Model

CHUNK = 1 << 20


@dataclass
class Tensor:
    name: bytes
    dtype: str
    shape: list[int]
    byte_len: int

    def chunks(self) -> int:
        return (self.byte_len + CHUNK - 1) // CHUNK

    def chunk_len(self, chunk: int) -> int:
        return min(CHUNK, self.byte_len - chunk * CHUNK)


# Section 11. Limits: those that a reader should have at least.


@dataclass
class Limits:
    tensors: int = 1 << 20
    files: int = 1 << 16
    state: int = 64 << 40
    metadata: int = 256 << 20  # a schema, a layout, each of their sections, and the INDEX section
    layout_index: int = 100_000_008
    section: int = 64 << 20  # a BLOCK or ancillary section


DTYPE_CHARACTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def read_schema(fields: Fields, limits: Limits) -> list[Tensor]:
    """Section 2.1."""
    first = fields.pos
    count = fields.u64()
    if count > limits.tensors:
        raise fields.limit(first, f"{count} tensors")
    if count * 21 > fields.left():
        raise fields.invalid(first, f"{count} tensors in {fields.left()} bytes")
    schema: list[Tensor] = []
    for _ in range(count):
        start = fields.pos
        name = fields.string(65535)
        at = fields.pos
        dtype = fields.string(32)
        if not dtype or not DTYPE_CHARACTERS.issuperset(dtype):
            raise fields.invalid(at, f"the dtype {dtype!r}")
        at = fields.pos
        rank = fields.u32()
        if rank > 64:
            raise fields.invalid(at, f"the rank {rank}")
        shape = [fields.u64() for _ in range(rank)]
        tensor = Tensor(name, dtype.decode(), shape, fields.u64())
        if schema and name <= schema[-1].name:
            raise fields.invalid(start, f"{name!r} is not after {schema[-1].name!r}")
        if tensor.dtype in DTYPES:
            elements = 1
            for dim in shape:
                elements *= dim
            if elements >> 64 or elements * DTYPES[tensor.dtype][0] != tensor.byte_len * 8:
                raise fields.invalid(start, f"{tensor.byte_len} bytes for {tensor.dtype} {shape}")
        if tensor.chunks() >= 1 << 32:
            raise fields.invalid(start, f"a tensor of {tensor.byte_len} bytes")
        schema.append(tensor)
    fields.finish()
    total = sum(tensor.byte_len for tensor in schema)
    if total >= 1 << 63:
        raise fields.invalid(first, f"{total} bytes in all")
    if total > limits.state:
        raise fields.limit(first, f"{total} bytes in all")
    return schema


def write_schema(schema: list[Tensor]) -> bytes:
    out = [struct.pack("<Q", len(schema))]
    for tensor in schema:
        dtype = tensor.dtype.encode()
        out += [struct.pack("<I", len(tensor.name)), tensor.name, struct.pack("<I", len(dtype)), dtype]
        out += [struct.pack(f"<I{len(tensor.shape)}QQ", len(tensor.shape), *tensor.shape, tensor.byte_len)]
    return b"".join(out)


def check_layout(fields: Fields, limits: Limits):
    """Section 2.2."""
    start = fields.pos
    count = fields.u32()
    if count > limits.files:
        raise fields.limit(start, f"{count} files")
    if count == 0 or count * 13 > fields.left():
        raise fields.invalid(start, f"{count} files in {fields.left()} bytes")
    before = b""
    for _ in range(count):
        start = fields.pos
        name = fields.string(255)
        at = fields.pos
        length = fields.u64()
        if length > 100_000_008:
            raise fields.invalid(at, f"a header of {length} bytes")
        fields.bytes(length)
        text = name.decode()
        if (
            any(c in "/\\" or c < " " or "\x7f" <= c <= "\x9f" for c in text)
            or text.startswith(".")
            or not text.endswith(".safetensors")
        ):
            raise fields.invalid(start, f"the file name {text!r}")
        if name <= before:
            raise fields.invalid(start, f"{name!r} is not after {before!r}")
        before = name
    start = fields.pos
    has_index = fields.u8()
    if has_index > 1:
        raise fields.invalid(start, f"has_index {has_index}")
    if has_index:
        start = fields.pos
        length = fields.u64()
        if length > limits.layout_index:
            raise fields.limit(start, f"an index of {length} bytes")
        fields.bytes(length)
    fields.finish()


# Section 3. Dtypes: the bits of an element, and its format.

DTYPES = {
    "BF16": (16, "bf16"),
    "F16": (16, "f16"),
    "F32": (32, "f32"),
    "F8_E4M3": (8, "e4m3"), "F8_E4M3FNUZ": (8, "e4m3"),
    "F8_E5M2": (8, "e5m2"), "F8_E5M2FNUZ": (8, "e5m2"),
    "BOOL": (8, "w8"), "U8": (8, "w8"), "I8": (8, "w8"), "F8_E8M0": (8, "w8"),
    "I16": (16, "w16"), "U16": (16, "w16"),
    "I32": (32, "w32"), "U32": (32, "w32"),
    "F64": (64, "w64"), "I64": (64, "w64"), "U64": (64, "w64"), "C64": (64, "w64"),
    "F4": (4, "w8"), "F6_E2M3": (6, "w8"), "F6_E3M2": (6, "w8"),
}  # fmt: skip


@dataclass(frozen=True)
class Format:
    width: int  # bytes
    shift: int = 0  # the key of an element is (v >> shift) & mask (sparse, section 1)
    mask: int = 0

    def elements(self, chunk: bytes) -> array:
        return array({1: "B", 2: "H", 4: "I", 8: "Q"}[self.width], chunk)


FORMATS = {
    "bf16": Format(2, 7, 255), "f16": Format(2, 10, 31), "f32": Format(4, 23, 255),
    "e4m3": Format(1, 3, 15), "e5m2": Format(1, 2, 31),
    "w8": Format(1), "w16": Format(2), "w32": Format(4), "w64": Format(8),
}  # fmt: skip


def format_of(dtype: str) -> Format:
    return FORMATS[DTYPES.get(dtype, (0, "w8"))[1]]


# Section 4. Digests


def leaf_digest(leaf_hash: int, chunk: bytes) -> bytes:
    return xxh3_128(chunk) if leaf_hash == 1 else blake3(chunk)


def tensor_digest(leaf_hash: int, byte_len: int, leaves: list[bytes]) -> bytes:
    return blake3(b"tensorpatch.v1.tensor\0" + struct.pack("<BQ", leaf_hash, byte_len) + b"".join(leaves))


def schema_digest(canonical: bytes) -> bytes:
    return blake3(b"tensorpatch.v1.schema\0" + canonical)


def state_digest(leaf_hash: int, schema: list[Tensor], leaves: list[list[bytes]]) -> bytes:
    tensors = [tensor_digest(leaf_hash, tensor.byte_len, table) for tensor, table in zip(schema, leaves)]
    return blake3(b"tensorpatch.v1.state\0" + schema_digest(write_schema(schema)) + b"".join(tensors))


def layout_digest(canonical: bytes) -> bytes:
    return blake3(b"tensorpatch.v1.layout\0" + canonical)


def schema_of(state: State) -> list[Tensor]:
    tensors = [Tensor(name.encode(), dtype, list(shape), len(data)) for name, (dtype, shape, data) in state.items()]
    return sorted(tensors, key=lambda tensor: tensor.name)


def leaf_table(leaf_hash: int, state: State) -> list[list[bytes]]:
    """Of each tensor, in the order of the schema."""
    table = []
    for tensor in schema_of(state):
        data = state[tensor.name.decode()][2]
        table.append([leaf_digest(leaf_hash, data[at : at + CHUNK]) for at in range(0, len(data), CHUNK)])
    return table


# Section 5. File structure

DELTA, FULL, EMPTY = 1, 2, 3
COMPACT, DIRECT = 1, 2
SCHEMA, LAYOUT, BLOCK, INDEX = 1, 2, 3, 4
SPARSE, SCATTER, XOR, RAW, ZSTD = 1, 2, 3, 4, 5
MAGIC, END_MAGIC = b"\x89TPATCH\n", b"\nhctapt\x89"
TRAILER = 192


@dataclass
class Record:
    offset: int
    tensor: int
    chunk: int
    encoding_offset: int
    encoding: int
    payload_len: int
    payload: int = 0  # its offset


@dataclass
class Block:
    offset: int
    length: int
    records: list[Record]


@dataclass
class Patch:
    """What a patch says; of a delta that was read without a base, only that which needs none."""

    kind: int = 0
    profile: int = 0
    leaf_hash: int = 0
    schema: list[Tensor] | None = None  # None: that of the base
    layout: bytes | None = None  # canonical bytes; None: that of the base
    blocks: list[Block] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)  # of the target, one for each record
    base_state: bytes = b""
    target_state: bytes = b""
    target_schema: bytes = b""
    base_layout: bytes = b""
    target_layout: bytes = b""


def parse(data: bytes, limits: Limits = Limits()) -> Patch:
    """Reads a patch. A full patch is decoded too; of another, what needs the base is not checked."""
    reader = Reader(data, None, limits)
    reader.read()
    return reader.patch


def apply(data: bytes, base: State | None, limits: Limits = Limits()) -> State:
    """The target state that the patch `data` makes from `base`; a full patch needs none."""
    reader = Reader(data, base, limits)
    reader.read()
    if reader.result is None:
        raise ValueError("this patch needs a base")
    return reader.result


class Reader:
    """Reads a file from its first byte to its last."""

    def __init__(self, data: bytes, base: State | None, limits: Limits):
        self.data, self.limits = data, limits
        self.patch = Patch()
        self.base = base
        self.base_schema = None if base is None else schema_of(base)
        self.grid: list[Tensor] | None = None  # the target's schema, as soon as it is known
        self.fresh: list[bool] | None = None  # for each tensor of the grid
        self.next_fresh: tuple[int, int] | None = None  # the first fresh chunk that has no record yet
        self.before = (-1, -1)  # tensor and chunk of the last record
        self.decoded: dict[tuple[int, int], tuple[bytes, bytes]] = {}  # chunk and leaf digest
        # The first violation that a wrong base may have caused, until the base is known to be right (section 10).
        self.suspicion: PatchError | None = None
        self.result: State | None = None

    def read(self):
        self.header()
        index = self.sections()
        trailer = self.trailer(index)
        self.verify(trailer)

    # Section 6

    def header(self):
        data, patch = self.data, self.patch
        if len(data) < 32:
            if not MAGIC.startswith(data[:8]):
                raise PatchError("not_a_patch", 0, "no magic")
            raise PatchError("truncated", 0, "the header is cut short")
        if data[:8] != MAGIC:
            raise PatchError("not_a_patch", 0, "no magic")
        major, _minor, required, _optional = struct.unpack_from("<HHII", data, 8)
        if major != 1:
            raise PatchError("unsupported_version", 8, f"major version {major}")
        if zlib.crc32(data[:28]) != r32(data, 28):
            raise PatchError("checksum", 28, "the header")
        if required:
            raise PatchError("unsupported_feature", 12, f"required features {required:#x}")
        patch.kind, patch.profile, patch.leaf_hash = data[20:23]
        for offset, value, most in ((20, patch.kind, 3), (21, patch.profile, 2), (22, patch.leaf_hash, 2)):
            if not 1 <= value <= most:
                raise PatchError("invalid", offset, f"the value {value}")
        if any(data[23:28]):
            raise PatchError("invalid", 23, "reserved bytes")

    # Section 7

    def sections(self) -> int:
        """Returns the offset of the INDEX section; the trailer begins at `self.end`."""
        pos, due = 32, (SCHEMA,)
        while True:
            kind, end = self.section(pos, due)
            fields = Fields(self.data, pos + 16, end)
            if kind == SCHEMA:
                self.schema_section(fields)
                due = (LAYOUT,)
            elif kind == LAYOUT:
                self.layout_section(fields)
                due = (INDEX,) if self.patch.kind == EMPTY else (BLOCK, INDEX)
            elif kind == BLOCK:
                self.block_section(fields)
            elif kind == INDEX:
                self.index_section(fields)
                self.end = end
                return pos
            pos = end

    def section(self, pos: int, due: tuple[int, ...]) -> tuple[int, int]:
        """Checks the head and the crc of a section; returns its type and its end."""
        data = self.data
        if len(data) - pos < 16:
            raise PatchError("truncated", pos, "a section head is cut short")
        kind, length = data[pos], r64(data, pos + 8)
        ancillary = kind >= 128
        if not ancillary and kind not in (SCHEMA, LAYOUT, BLOCK, INDEX):
            raise PatchError("unsupported_feature", pos, f"section type {kind}")
        if any(data[pos + 1 : pos + 4]):
            raise PatchError("invalid", pos + 1, "reserved bytes")
        most = self.limits.section if ancillary or kind == BLOCK else self.limits.metadata
        if length > most:
            raise PatchError("limit", pos + 8, f"a section of {length} bytes")
        if not ancillary and kind not in due:
            raise PatchError("invalid", pos, f"section type {kind} where {due} is due")
        end = pos + 16 + length
        if end > len(data):
            raise PatchError("truncated", pos + 16, "a section is cut short")
        if zlib.crc32(data[pos + 8 : end], zlib.crc32(data[pos : pos + 4])) != r32(data, pos + 4):
            raise PatchError("checksum", pos + 4, f"section type {kind}")
        return kind, end

    def schema_section(self, fields: Fields):
        """Section 7.1."""
        patch = self.patch
        contents = self.listed(fields, must_list=patch.kind == FULL, must_be_same=patch.kind == EMPTY)
        if contents:
            patch.schema = self.grid = read_schema(contents, self.limits)
        else:
            self.grid = self.base_schema
        if patch.kind == FULL:
            self.fresh = [True] * len(self.grid)
        elif self.base is not None:
            kept = {(t.name, t.dtype, t.byte_len) for t in self.base_schema}
            self.fresh = [(t.name, t.dtype, t.byte_len) not in kept for t in self.grid]
        if self.fresh is not None:
            self.next_fresh = self.fresh_from(0)

    def layout_section(self, fields: Fields):
        """Section 7.2. A full patch lists its schema, so it lists its layout too."""
        contents = self.listed(fields, must_list=self.patch.schema is not None, must_be_same=False)
        if contents:
            self.patch.layout = contents.data[contents.pos : contents.end]
            check_layout(contents, self.limits)

    def listed(self, fields: Fields, must_list: bool, must_be_same: bool) -> Fields | None:
        """What a SCHEMA or LAYOUT section lists, if anything."""
        start = fields.pos
        mode = fields.u8()
        if mode > 1:
            raise fields.invalid(start, f"mode {mode}")
        if mode == 0:
            fields.finish()
        else:
            packing, raw_len = self.packed_head(fields)
        if (mode == 0 and must_list) or (mode == 1 and must_be_same):
            raise fields.invalid(start, f"mode {mode} in this patch")
        return self.unpack(fields, packing, raw_len) if mode == 1 else None

    def packed_head(self, fields: Fields) -> tuple[int, int]:
        """Section 7.3."""
        start = fields.pos
        packing = fields.u8()
        if packing > 1:
            raise fields.invalid(start, f"packing {packing}")
        start = fields.pos
        raw_len = fields.varint()
        if raw_len > self.limits.metadata:
            raise fields.limit(start, f"{raw_len} bytes unpacked")
        if packing == 0 and raw_len != fields.left():
            raise fields.invalid(start, f"{raw_len} bytes where there are {fields.left()}")
        return packing, raw_len

    def unpack(self, fields: Fields, packing: int, raw_len: int) -> Fields:
        if packing == 0:
            return fields
        raw = unzstd(fields.data[fields.pos : fields.end], raw_len)
        if raw is None:
            raise fields.invalid(fields.pos, f"no zstd frame of {raw_len} bytes")
        return Fields(raw, 0, raw_len, at=fields.pos)

    def address(self, fields: Fields, tensor: int, chunk: int) -> tuple[int, int]:
        """Section 7.4: the address that follows the one of `tensor` and `chunk`."""
        at = fields.pos
        step = fields.varint()
        tensor += step
        if tensor >= 1 << 32:
            raise fields.invalid(at, f"the tensor index {tensor}")
        at = fields.pos
        chunk = fields.varint() if step else chunk + 1 + fields.varint()
        if chunk >= 1 << 32:
            raise fields.invalid(at, f"the chunk number {chunk}")
        return tensor, chunk

    def block_section(self, fields: Fields):
        """Section 7.4."""
        block = Block(fields.pos - 16, fields.left() + 16, [])
        start = fields.pos
        count = fields.varint()
        if count == 0 or count * 4 > fields.left():
            raise fields.invalid(start, f"{count} records in {fields.left()} bytes")
        tensor, chunk = 0, -1
        for _ in range(count):
            offset = fields.pos
            tensor, chunk = self.address(fields, tensor, chunk)
            at = fields.pos
            encoding = fields.u8()
            if not SPARSE <= encoding <= ZSTD:
                raise fields.invalid(at, f"the encoding {encoding}")
            block.records.append(Record(offset, tensor, chunk, at, encoding, fields.varint()))
        if sum(record.payload_len for record in block.records) != fields.left():
            raise fields.invalid(fields.pos, "the payloads do not add up to the rest of the section")
        payload = fields.pos
        for record in block.records:
            record.payload = payload
            payload += record.payload_len
        self.patch.blocks.append(block)
        for record in block.records:
            self.place(record)
        for record in block.records:
            self.decode(record)

    def place(self, record: Record):
        """The rules of section 7.4 that need the schema, the profile or the base."""
        here = (record.tensor, record.chunk)
        if here <= self.before:
            raise PatchError("invalid", record.offset, f"{here} is not after {self.before}")
        self.before = here
        if self.suspicion:
            return
        if self.grid is not None:
            if record.tensor >= len(self.grid) or record.chunk >= self.grid[record.tensor].chunks():
                error = PatchError("invalid", record.offset, f"{here} is outside the grid")
                if self.patch.schema is not None:
                    raise error
                return self.suspect(error)  # the grid is that of a base which may be another
            if self.next_fresh and self.next_fresh < here:
                return self.suspect(PatchError("invalid", record.offset, f"no record for {self.next_fresh}"))
        if self.patch.profile == DIRECT and record.encoding in (SPARSE, XOR):
            raise PatchError("invalid", record.encoding_offset, "an encoding over the base in the profile direct")
        if self.fresh is not None and self.fresh[record.tensor]:
            if record.encoding not in (RAW, ZSTD):
                error = PatchError("invalid", record.encoding_offset, "an encoding over the base for a fresh tensor")
                return self.suspect(error)
            chunk = record.chunk + 1
            more = chunk < self.grid[record.tensor].chunks()
            self.next_fresh = (record.tensor, chunk) if more else self.fresh_from(record.tensor + 1)

    def fresh_from(self, tensor: int) -> tuple[int, int] | None:
        """The first fresh chunk of tensor `tensor` or a later one."""
        for i in range(tensor, len(self.grid)):
            if self.fresh[i] and self.grid[i].byte_len:
                return (i, 0)
        return None

    def suspect(self, error: PatchError):
        """Section 10: an error that another base may have caused waits until the base is known."""
        if self.patch.kind == FULL:
            raise error
        self.suspicion = self.suspicion or error

    def decode(self, record: Record):
        if self.suspicion or self.fresh is None:
            return
        tensor = self.grid[record.tensor]
        base = None
        if not self.fresh[record.tensor]:
            start = record.chunk * CHUNK
            base = self.base[tensor.name.decode()][2][start : start + CHUNK]
        payload = self.data[record.payload : record.payload + record.payload_len]
        length = tensor.chunk_len(record.chunk)
        try:
            chunk = decode_chunk(record.encoding, format_of(tensor.dtype), payload, base, length)
        except Refusal as refusal:
            return self.suspect(PatchError("invalid", record.payload, str(refusal)))
        self.decoded[record.tensor, record.chunk] = (chunk, leaf_digest(self.patch.leaf_hash, chunk))

    def index_section(self, fields: Fields):
        """Section 7.5."""
        index = fields.pos - 16
        if self.next_fresh and not self.suspicion:
            self.suspect(PatchError("invalid", index, f"no record for {self.next_fresh}"))
        blocks = self.patch.blocks
        size = 16 if self.patch.leaf_hash == 1 else 32
        start = fields.pos
        count = fields.varint()
        if count * (3 + 2 + size) > fields.left() or count != len(blocks):
            raise fields.invalid(start, f"{count} blocks, where there are {len(blocks)}")
        before, records = 32, 0
        for block in blocks:
            start = fields.pos
            gap = fields.varint()
            at = fields.pos
            length = fields.varint()
            offset = before + gap
            before = offset + length
            if length < 16 or before > index:
                raise fields.invalid(at, f"a block of {length} bytes from {offset} on")
            at = fields.pos
            count = fields.varint()
            records += count
            if count == 0 or records * (2 + size) > fields.left():
                raise fields.invalid(at, f"{count} records")
            if (offset, length, count) != (block.offset, block.length, len(block.records)):
                raise fields.invalid(start, f"not the block at {block.offset}")
        for block in blocks:
            tensor, chunk = 0, -1
            for record in block.records:
                start = fields.pos
                tensor, chunk = self.address(fields, tensor, chunk)
                if (tensor, chunk) != (record.tensor, record.chunk):
                    raise fields.invalid(start, f"not the record at {record.offset}")
        leaves = fields.pos
        self.patch.leaves = [fields.bytes(size) for _ in range(records)]
        fields.finish()
        if self.suspicion:
            return
        every = (record for block in blocks for record in block.records)
        for i, (record, leaf) in enumerate(zip(every, self.patch.leaves)):
            found = self.decoded.get((record.tensor, record.chunk))
            if found and found[1] != leaf:
                error = PatchError("target_mismatch", leaves + i * size, f"the chunk at {record.offset}")
                return self.suspect(error)

    # Section 8

    def trailer(self, index: int) -> int:
        data, patch, start = self.data, self.patch, self.end
        trailer = data[start : start + TRAILER]
        if len(trailer) < TRAILER:
            raise PatchError("truncated", start, "the trailer is cut short")
        if trailer[184:] != END_MAGIC:
            raise PatchError("truncated", start + 184, "no end magic")
        if zlib.crc32(trailer[:180], zlib.crc32(data[:28])) != r32(trailer, 180):
            raise PatchError("checksum", start + 180, "the trailer")

        def require(held: bool, at: int, what: str):
            if not held:
                raise PatchError("invalid", start + at, what)

        require(trailer[176:180] == bytes(4), 176, "reserved bytes")
        require(r64(trailer, 168) == start + TRAILER, 168, "the length of the file")
        require(r64(trailer, 160) == index, 160, "the offset of the INDEX")
        patch.base_state, patch.target_state, patch.target_schema = (trailer[at : at + 32] for at in (0, 32, 64))
        patch.base_layout, patch.target_layout = trailer[96:128], trailer[128:160]
        if patch.kind == FULL:
            require(patch.base_state == bytes(32), 0, "a base state digest in a full patch")
        elif patch.kind == DELTA:
            require(patch.target_state != patch.base_state, 32, "a delta between equal states")
        else:
            require(patch.target_state == patch.base_state, 32, "an empty patch between two states")
        if patch.schema is not None:
            listed = schema_digest(write_schema(patch.schema))
            require(patch.target_schema == listed, 64, "not the digest of the listed schema")
        if patch.kind == FULL:
            require(patch.base_layout == bytes(32), 96, "a base layout digest in a full patch")
        if patch.layout is not None:
            require(patch.target_layout == layout_digest(patch.layout), 128, "not the digest of the listed layout")
        else:
            require(patch.target_layout == patch.base_layout, 128, "two layouts, and none listed")
        if len(data) > start + TRAILER:
            raise PatchError("invalid", start + TRAILER, "bytes after the trailer")
        return start

    # Section 10

    def verify(self, trailer: int):
        patch = self.patch
        if self.fresh is None:  # read without the base
            return
        base_leaves: dict[bytes, list[bytes]] = {}
        if patch.kind != FULL:
            if patch.schema is None and schema_digest(write_schema(self.base_schema)) != patch.target_schema:
                raise PatchError("wrong_base", trailer + 64, "the base has another schema")
            table = leaf_table(patch.leaf_hash, self.base)
            if state_digest(patch.leaf_hash, self.base_schema, table) != patch.base_state:
                raise PatchError("wrong_base", trailer, "the base has another state digest")
            if self.suspicion:
                raise self.suspicion
            base_leaves = {tensor.name: leaves for tensor, leaves in zip(self.base_schema, table)}

        result: State = {}
        table = []
        for i, tensor in enumerate(self.grid):
            name = tensor.name.decode()
            old = b"" if self.fresh[i] else self.base[name][2]
            parts, leaves = [], []
            for c in range(tensor.chunks()):
                if (i, c) in self.decoded:
                    part, leaf = self.decoded[i, c]
                else:
                    part, leaf = old[c * CHUNK : (c + 1) * CHUNK], base_leaves[tensor.name][c]
                parts.append(part)
                leaves.append(leaf)
            result[name] = (tensor.dtype, tensor.shape, b"".join(parts))
            table.append(leaves)
        if state_digest(patch.leaf_hash, self.grid, table) != patch.target_state:
            raise PatchError("target_mismatch", trailer + 32, "the result has another state digest")
        self.result = result


# Section 9. Chunk encodings


class Refusal(Exception):
    """Something is wrong in a payload; the caller knows its offset."""


def decode_chunk(encoding: int, format: Format, payload: bytes, base: bytes | None, length: int) -> bytes:
    try:
        if encoding == RAW:
            chunk = payload
        elif encoding == ZSTD:
            chunk = unzstd(payload, length)
        elif encoding == XOR:
            chunk = decode_xor(format, payload, base)
        elif encoding == SCATTER:
            chunk = decode_scatter(format, payload, base)
        else:
            chunk = decode_sparse(format, payload, base)
    except PatchError as error:
        raise Refusal(error.what) from None
    if chunk is None or len(chunk) != length:
        raise Refusal(f"not the {length} bytes of the chunk")
    return chunk


# encodings/xor.md


def read_planes(fields: Fields, count: int, width: int) -> bytearray:
    """The elements whose `width` byte planes of `count` bytes come next."""
    elements = bytearray(count * width)
    for b in range(width):
        mode = fields.u8()
        if mode == 0:
            continue
        if mode == 1:
            plane = fields.bytes(count)
        elif mode == 2:
            plane = unzstd(fields.bytes(fields.varint()), count)
        else:
            raise Refusal(f"the mode {mode}")
        if plane is None:
            raise Refusal(f"no zstd frame of {count} bytes")
        elements[b::width] = plane
    fields.finish()
    return elements


def decode_xor(format: Format, payload: bytes, base: bytes) -> bytes:
    change = read_planes(Fields(payload, 0, len(payload)), len(base) // format.width, format.width)
    target = int.from_bytes(base, "little") ^ int.from_bytes(change, "little")
    return target.to_bytes(len(base), "little")


# encodings/scatter.md


class Bits:
    """A bit string, filled from the least significant bit of each byte on."""

    def __init__(self, data: bytes):
        self.text = f"{int.from_bytes(data, 'little'):0{8 * len(data)}b}"[::-1] if data else ""
        self.pos = 0

    def take(self, count: int) -> int:
        end = self.pos + count
        if end > len(self.text):
            raise Refusal("the bit string ends too early")
        bits = self.text[self.pos : end][::-1]
        self.pos = end
        return int(bits, 2) if bits else 0

    def zeros(self) -> int:
        """How many zero bits stand before the next one bit, which is removed too."""
        one = self.text.find("1", self.pos)
        if one < 0:
            raise Refusal("the bit string ends too early")
        count, self.pos = one - self.pos, one + 1
        return count

    def finish_byte(self):
        if self.take(-self.pos % 8):
            raise Refusal("a filling bit is not zero")


def decode_scatter(format: Format, payload: bytes, base: bytes) -> bytes:
    fields = Fields(payload, 0, len(payload))
    elements = format.elements(base)
    count = fields.varint()
    if not 1 <= count <= len(elements):
        raise Refusal(f"{count} changed elements of {len(elements)}")
    k = fields.u8()
    if k > 23:
        raise Refusal(f"the Rice parameter {k}")
    bits = Bits(fields.bytes(fields.varint()))
    positions = []
    at = -1
    for _ in range(count):
        high = bits.zeros()
        at += 1 + (high << k | bits.take(k))
        if at >= len(elements):
            raise Refusal(f"the position {at} of {len(elements)}")
        positions.append(at)
    bits.finish_byte()
    if bits.pos != len(bits.text):
        raise Refusal("bytes after the positions")
    values = format.elements(bytes(read_planes(fields, count, format.width)))
    for at, value in zip(positions, values):
        elements[at] = value
    return elements.tobytes()


# encodings/sparse.md

# `SURVIVAL` of section 3 of that file.
SURVIVAL = [round(65536 * 2 ** -(2 ** ((c - 80) / 4))) for c in range(96)]


@dataclass
class Class:
    rate: int
    hot: bool
    reach: int = 0

    def is_cold(self) -> bool:
        return not self.hot and self.rate > 0


@dataclass(frozen=True)
class Symbol:
    first: int  # slot
    slots: int
    bits: int | None = None  # b of `moved(b)`; None is `unchanged`, or `escape`
    escape: bool = False


class Ends:
    """Section 2 there: a payload that is read from both ends."""

    def __init__(self, payload: bytes):
        self.payload, self.p, self.q = payload, 0, 8 * len(payload)

    def word(self) -> int:
        if self.p + 2 > len(self.payload):
            raise Refusal("the words run over the end")
        self.p += 2
        return int.from_bytes(self.payload[self.p - 2 : self.p], "little")

    def number(self, count: int) -> int:
        self.q -= count
        if self.q < 0:
            raise Refusal("the bits run over the start")
        start = self.q // 8
        window = int.from_bytes(self.payload[start : start + 9], "little")
        return window >> self.q % 8 & (1 << count) - 1

    def near(self, expected: int, plain: int) -> int:
        z = 0
        while not self.number(1):
            z += 1
            if z > 8:
                raise Refusal("more than 8 zero bits")
        if z == 8:
            return self.number(plain)
        d = 2 * z + self.number(1)
        return expected + d // 2 if d % 2 == 0 else expected - (d + 1) // 2

    def finish(self):
        between = self.q - 8 * self.p
        if not 0 <= between < 8 or self.number(between):
            raise Refusal("words and bits do not meet")


def decode_sparse(format: Format, payload: bytes, base: bytes) -> bytes:
    """Section 2 there."""
    ends = Ends(payload)
    lanes, hot_from = (1, 8, 16, 32)[ends.number(2)], (0, 68, 72, 76)[ends.number(2)]
    count = ends.number(5) + 1
    reaching = ends.number(5) + 1 if ends.number(1) else 0
    first_key = ends.number(8)
    if reaching > count:
        raise Refusal(f"{reaching} of {count} classes have a reach")
    classes: list[Class] = []
    for c in range(count):
        rate = ends.near(max(classes[c - 1].rate - 4, 1), 7) if c else ends.number(7)
        if not 0 <= rate <= 95:
            raise Refusal(f"the rate {rate}")
        classes.append(Class(rate, rate >= hot_from))
    for c in reversed(range(reaching)):
        reach = ends.near(min(classes[c + 1].reach + 5, 255), 8) if c + 1 < reaching else ends.number(8)
        if not 0 <= reach <= 255:
            raise Refusal(f"the reach {reach}")
        classes[c].reach = reach
    states = []
    for _ in range(lanes):
        n = 16 + ends.number(4)
        states.append(1 << n | ends.number(n))

    elements = format.elements(base)
    # Section 1 there.
    class_of_key = [min(max(x, first_key) - first_key, count - 1) for x in range(format.mask + 1)]
    keys = ((v >> format.shift) & format.mask for v in elements)
    class_of = bytes(map(class_of_key.__getitem__, keys))
    sparse = Sparse(format, classes, elements, class_of, ends, states)
    per_block = 65536 // format.width
    starts = range(0, len(elements), per_block)
    for start in starts:
        sparse.block(start, min(start + per_block, len(elements)), start == starts[-1])
    ends.finish()
    return elements.tobytes()


def symbols_of(c: Class, width: int) -> list[Symbol]:
    """Section 3 there: the symbol of each of the 4096 slots."""
    slots: list[Symbol] = []

    def add(count: int, **symbol):
        slots.extend([Symbol(len(slots), count, **symbol)] * count)

    unchanged = 0
    if c.hot:
        unchanged = min(2 * max(SURVIVAL[c.rate] // 32, 1), 4092 if c.reach else 4094) if c.rate else 4096
    add(unchanged)
    if c.reach == 0:
        add(4096 - unchanged, bits=0)
        return slots
    for b in range(8 * width):
        index = 96 + 5 * b - c.reach
        p = 65536 if index < 0 else 0 if index > 95 else SURVIVAL[index]
        end = unchanged + 2 * (max(4094 - unchanged, 0) // 2 * (65536 - p) // 65536)
        add(end - len(slots), bits=b)
    add(4096 - len(slots), escape=True)
    return slots


class Sparse:
    """Sections 4 and 5 there."""

    def __init__(self, format: Format, classes, elements: array, class_of: bytes, ends: Ends, states: list[int]):
        self.classes, self.elements, self.class_of = classes, elements, class_of
        self.ends, self.states = ends, states
        self.width = 8 * format.width
        self.slots = [symbols_of(c, format.width) for c in classes]
        self.highest = max((c.rate for c in classes if c.is_cold()), default=0)
        self.factor = (5678 << self.highest // 4) >> 15
        self.lengths = []
        for c in classes:
            h = 5 + self.highest // 4 - c.rate // 4
            q = (32768, 38968, 46341, 55109)[c.rate % 4]
            self.lengths.append(max(1, q + (1 << h - 1) >> h) if c.is_cold() else 0)

    def take(self, lane: int, s: int, f: int, o: int):
        x = (self.states[lane] >> s) * f + o
        self.states[lane] = x if x >= 1 << 16 else x << 16 | self.ends.word()

    def block(self, start: int, stop: int, last: bool):
        reaching, by_one = [], []
        for i in self.cold_changes(start, stop) if self.highest else []:
            (reaching if self.classes[self.class_of[i]].reach else by_one).append(i)
        hot = [c.hot for c in self.classes]
        self.moves([i for i in range(start, stop) if hot[self.class_of[i]]] + reaching)
        self.directions(by_one, last)

    def move(self, element: int, t: int, down: bool):
        by = -(1 + t) if down else 1 + t
        self.elements[element] = self.elements[element] + by & (1 << self.width) - 1

    def moves(self, elements: list[int]):
        lanes = len(self.states)
        for first in range(0, len(elements), lanes):
            moves = []  # element, symbol, direction
            for lane, i in enumerate(elements[first : first + lanes]):
                slot = self.states[lane] & 4095
                symbol = self.slots[self.class_of[i]][slot]
                place = slot - symbol.first
                if symbol.bits is None and not symbol.escape:
                    self.take(lane, 12, symbol.slots, place)
                    continue
                self.take(lane, 12, symbol.slots // 2, place // 2)
                moves.append((i, symbol, place % 2 == 1))
            t = {i: 1 << symbol.bits - 1 if symbol.bits else 0 for i, symbol, _ in moves}
            near = [(i, symbol.bits) for i, symbol, _ in moves if symbol.bits and 2 <= symbol.bits <= 6]
            for j in range(5):
                plane = [i for i, b in near if b >= 2 + j]
                number = self.ends.number(len(plane))
                for n, i in enumerate(plane):
                    t[i] |= (number >> n & 1) << j
            for i, symbol, _ in moves:
                b = symbol.bits
                if symbol.escape:
                    b = self.ends.number(6)
                    if b >= self.width:
                        raise Refusal(f"a move of {b} bits")
                if symbol.escape or b >= 7:
                    t[i] = 1 << b - 1 | self.ends.number(b - 1) if b else 0
            for i, _, down in moves:
                self.move(i, t[i], down)

    def directions(self, elements: list[int], last: bool):
        def move_all(elements: list[int], number: int):
            for n, i in enumerate(elements):
                self.move(i, 0, number >> n & 1 == 1)

        if last:
            for x in self.states:
                own, elements = elements[:16], elements[16:]
                v = x - 0x10000
                if not 0 <= v < 1 << len(own):
                    raise Refusal("a state is left over")
                move_all(own, v)
        for n in range(0, len(elements), 32):
            own = elements[n : n + 32]
            move_all(own, self.ends.number(len(own)))

    def unchanged(self, t: int) -> int:
        if t == 0:
            return 4096
        u = 65535 - 2 * min(16383, t * self.factor >> 16)
        for _ in range(3):
            u = u * u >> 16
        return u // 16

    def cold_changes(self, start: int, stop: int) -> list[int]:
        changed, lanes = [], len(self.states)
        lengths = [self.lengths[c] for c in self.class_of[start:stop]]
        # Number of the group, first element that may change, and the sum of the lengths from there on.
        groups = [(n, n, sum(lengths[n : n + 32])) for n in range(0, len(lengths), 32)]
        while groups:
            left = []
            for n, group in enumerate(groups):
                lane = n % lanes
                f, slot = self.unchanged(group[2]), self.states[lane] & 4095
                if slot < f:
                    self.take(lane, 12, f, slot)
                else:
                    self.take(lane, 12, 4096 - f, slot - f)
                    left.append(group)
            groups = []
            for n, (group, first, total) in enumerate(left):
                lane = n % lanes
                slot, k = self.states[lane] & 0xFFFF, 0xFFFFFFFF // total
                e = end = 0
                for i in range(first, min(group + 32, len(lengths))):
                    e, before, end = e + lengths[i], end, (e + lengths[i]) * k >> 16
                    if slot < end:
                        break
                else:
                    raise Refusal("a place beyond its group")
                self.take(lane, 16, end - before, slot - before)
                changed.append(start + i)
                groups.append((group, i + 1, total - e))
        return changed


# Command line


def load_safetensors(path: Path) -> State:
    data = path.read_bytes()
    start = 8 + r64(data, 0)
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    state = {}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        state[name] = (tensor["dtype"], tensor["shape"], data[start + begin : start + end])
    return state


def save_safetensors(path: Path, state: State):
    header, at = {}, 0
    for name, (dtype, shape, data) in state.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *(data for _, _, data in state.values())]))


# Conformance vectors: their README and the `rules` of their manifest say how to use them.


def draws(x: int):
    while True:
        x = (x * 6364136223846793005 + 1442695040888963407) & M64
        yield x


def combine(data: bytes, pattern: str, operator) -> bytes:
    pattern = bytes.fromhex(pattern)
    pattern = (pattern * (len(data) // len(pattern) + 1))[: len(data)]
    value = operator(int.from_bytes(data, "little"), int.from_bytes(pattern, "little"))
    return value.to_bytes(len(data), "little")


def nudge(data: bytearray, rule: dict):
    draw = draws(rule["nudge"])
    width, one_in, reach = rule["width"], rule["one_in"], rule["reach"]
    mask = (1 << 8 * width) - 1
    elements = Format(width).elements(bytes(data))
    for i in range(len(elements)):
        if (next(draw) >> 33) % one_in == 0:
            v = next(draw) >> 32
            by = 1 + (v >> 1) % reach
            elements[i] = elements[i] + (-by if v & 1 else by) & mask
    data[:] = elements.tobytes()


def build(rule: dict, states: dict[str, State]) -> bytes:
    if "hex" in rule:
        return bytes.fromhex(rule["hex"])
    if "repeat" in rule:
        pattern = bytes.fromhex(rule["repeat"])
        return (pattern * (rule["length"] // max(len(pattern), 1) + 1))[: rule["length"]]
    if "parts" in rule:
        return b"".join(build(part, states) for part in rule["parts"])
    if "random" in rule:
        data = bytes(x >> 56 for x in islice(draws(rule["random"]), rule["length"]))
        if "and" in rule:
            data = combine(data, rule["and"], lambda a, b: a & b)
        if "or" in rule:
            data = combine(data, rule["or"], lambda a, b: a | b)
        return data
    data = bytearray(states[rule["state"]][rule["tensor"]][2])
    for edit in rule["edits"]:
        if "write" in edit:
            new = bytes.fromhex(edit["write"])
            data[edit["at"] : edit["at"] + len(new)] = new
        else:
            nudge(data, edit)
    return bytes(data)


def build_states(manifest: dict) -> tuple[dict[str, State], list[str]]:
    """The states by their ids, and what is wrong with them."""
    states: dict[str, State] = {}
    wrong = []
    for listed in manifest["states"]:
        state: State = {}
        for tensor in listed["tensors"]:
            data = build(tensor["bytes"], states)
            if len(data) != tensor["byte_len"] or blake3(data).hex() != tensor["blake3"]:
                wrong.append(f"state {listed['id']}: tensor {tensor['name']!r} has other bytes")
            state[tensor["name"]] = (tensor["dtype"], tensor["shape"], data)
        states[listed["id"]] = state
        for text in listed["digests"]:
            leaf_hash = {"xxh3": 1, "blake3": 2}[text.split(":")[0]]
            digest = state_digest(leaf_hash, schema_of(state), leaf_table(leaf_hash, state))
            if digest.hex() != text.split(":")[1]:
                wrong.append(f"state {listed['id']}: the digest {text} should be {digest.hex()}")
    return states, wrong


def check_vector(vector: dict, data: bytes, states: dict[str, State], limits: Limits) -> str | None:
    """What is wrong, if anything."""
    if blake3(data).hex() != vector["blake3"]:
        return "the file has another BLAKE3 hash"
    base = None if vector["base"] is None else states[vector["base"]]
    try:
        result = apply(data, base, limits)
    except PatchError as error:
        if vector["result"] == "valid":
            return f"refused: {error}"
        if (error.code, error.offset) != (vector["error"], vector["offset"]):
            return f"refused with {error}, should be {vector['error']} at {vector['offset']}"
        return None
    if vector["result"] == "invalid":
        return f"taken, should be {vector['error']} at {vector['offset']}"
    return None if result == states[vector["target"]] else "decoded to another state"


def check_vectors(folder: Path) -> int:
    manifest = json.loads((folder / "manifest.json").read_text())
    declared = manifest["limits"]
    limits = Limits(
        tensors=declared["tensors"],
        files=declared["files"],
        state=declared["state_bytes"],
        metadata=declared["metadata_bytes"],
        section=declared["section_bytes"],
    )
    began = time.monotonic()
    states, wrong = build_states(manifest)
    for what in wrong:
        print(what)
    print(f"{len(states)} states in {time.monotonic() - began:.1f} s")
    failed = len(wrong)
    for vector in manifest["vectors"]:
        what = check_vector(vector, (folder / vector["file"]).read_bytes(), states, limits)
        if what:
            failed += 1
            print(f"{vector['id']} (section {vector['section']}; {vector['comment']}): {what}")
    passed = len(manifest["vectors"]) + len(wrong) - failed
    print(f"{time.monotonic() - began:.1f} s")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def describe(patch: Patch) -> str:
    kind = {DELTA: "delta", FULL: "full", EMPTY: "empty"}[patch.kind]
    hash_name = {1: "xxh3", 2: "blake3"}[patch.leaf_hash]
    records = sum(len(block.records) for block in patch.blocks)
    lines = [f"{kind}, profile {'compact' if patch.profile == COMPACT else 'direct'}, {records} chunks"]
    if patch.kind != FULL:
        lines.append(f"base   {hash_name}:{patch.base_state.hex()}")
    lines.append(f"target {hash_name}:{patch.target_state.hex()}")
    return "\n".join(lines)


def give_answer(patch: Path, base: Path, target: Path) -> int:
    """As `run.py` asks for it."""
    try:
        result = apply(patch.read_bytes(), None if str(base) == "-" else load_safetensors(base))
    except PatchError as error:
        print(error.code, error.offset)
        return 1
    save_safetensors(target, result)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Reads tensorpatch patches.")
    parser.add_argument("patch", type=Path, nargs="?")
    parser.add_argument("--base", type=Path, metavar="FILE.safetensors")
    parser.add_argument("-o", dest="out", type=Path, metavar="OUT.safetensors")
    parser.add_argument("--vectors", type=Path, metavar="FOLDER")
    parser.add_argument("--answer", type=Path, nargs=3, metavar=("PATCH", "BASE", "TARGET"))
    options = parser.parse_args()
    if options.vectors:
        return check_vectors(options.vectors)
    if options.answer:
        return give_answer(*options.answer)
    if not options.patch:
        parser.error("a patch or --vectors is needed")
    data = options.patch.read_bytes()
    try:
        patch = parse(data)
        print(describe(patch))
        if options.base or options.out:
            if patch.kind != FULL and not options.base:
                parser.error("this patch needs --base")
            result = apply(data, load_safetensors(options.base) if options.base else None)
            if options.out:
                save_safetensors(options.out, result)
    except PatchError as error:
        print(f"{options.patch}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
