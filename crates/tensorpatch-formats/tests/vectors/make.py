"""Writes the vectors beside it, from docs/formats.md alone and without any code of this repository.

    python3 -m venv venv && venv/bin/pip install xxhash blake3 zstandard
    venv/bin/python make.py

`tests/vectors.rs` reads them. zstd frames differ between versions of the library; what they unpack to does not.
"""

import hashlib
import json
import os
import shutil
import struct
import zlib

import blake3
import xxhash
import zstandard

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH = {"BF16": 2, "F32": 4, "I64": 8, "F8_E4M3": 1, "U8": 1, "I32": 4, "U16": 2, "U32": 4}
TORCH = {"BF16": "bfloat16", "F32": "float32", "I64": "int64", "F8_E4M3": "float8_e4m3fn"}


def put(path, data):
    path = os.path.join(HERE, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def safetensors(tensors, metadata=None):
    """tensors: name -> (dtype, shape, bytes), in the order of the file."""
    header, at = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def frame(data):
    return zstandard.ZstdCompressor(level=1).compress(data)


def plain_frame(data):
    """A frame of blocks that are not compressed, written by hand: a single segment, a content size of four bytes."""
    blocks = [data[at:at + 100_000] for at in range(0, len(data), 100_000)]
    heads = [struct.pack("<I", len(block) << 3 | (number == len(blocks) - 1))[:3] for number, block in enumerate(blocks)]
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data)) + b"".join(h + b for h, b in zip(heads, blocks))


CHECKSUM = {
    "adler32": lambda data: f"{zlib.adler32(data):08x}",
    "xxh3-128": lambda data: xxhash.xxh3_128(data).hexdigest(),
    "blake3": lambda data: blake3.blake3(data).hexdigest(),
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
}


def changed(base, target):
    return [name for name in base if base[name][2] != target[name][2]]


def places(old, new, width):
    return [i // width for i in range(0, len(old), width) if old[i:i + width] != new[i:i + width]]


def take(data, at, width):
    return b"".join(data[i * width:(i + 1) * width] for i in at)


def gaps(at):
    return [b - a - 1 for a, b in zip([-1] + at, at)]


def xored(old, new):
    return bytes(a ^ b for a, b in zip(old, new))


def alter(state, changes):
    out = {name: (dtype, shape, bytearray(data)) for name, (dtype, shape, data) in state.items()}
    for name, position, value in changes:
        width = WIDTH[out[name][0]]
        out[name][2][position * width:(position + 1) * width] = value
    return {name: (dtype, shape, bytes(data)) for name, (dtype, shape, data) in out.items()}


# The states. Changes flip the sign of a zero, and alter the payload of a NaN.
NAN, NAN2, ZERO, MINUS_ZERO = b"\xc1\x7f", b"\xc2\x7f", b"\x00\x00", b"\x00\x80"
base = {
    "layers.0.weight": ("BF16", [5, 7], bytes(range(1, 71))),
    "layers.1.weight": ("BF16", [2, 3, 4], ZERO * 23 + NAN),
    "wide": ("BF16", [66000], bytes(132000)),
    "scale": ("F32", [], struct.pack("<f", 0.5)),
    "norm": ("F32", [6], struct.pack("<6f", *range(6))),
    "quantised": ("F8_E4M3", [9], bytes(range(9))),
    "steps": ("I64", [3], struct.pack("<3q", 1, -1, 1 << 40)),
    "empty": ("BF16", [0, 4], b""),
}
CHANGES = [
    ("layers.0.weight", 0, b"\xff\x00"), ("layers.0.weight", 6, b"\x01\x01"), ("layers.0.weight", 7, b"\x02\x02"),
    ("layers.0.weight", 34, b"\x00\xff"), ("layers.1.weight", 3, MINUS_ZERO), ("layers.1.weight", 23, NAN2),
    ("wide", 100, b"\x01\x00"), ("wide", 65700, b"\x02\x00"), ("wide", 65999, b"\x03\x00"),
]
OTHERS = [
    ("scale", 0, struct.pack("<f", -0.5)), ("norm", 2, struct.pack("<f", 2.5)), ("norm", 3, struct.pack("<f", 3.5)),
    ("norm", 4, struct.pack("<f", 4.5)), ("quantised", 8, b"\x7f"), ("steps", 1, struct.pack("<q", 7)),
]
target = alter(base, CHANGES + OTHERS)
bf16 = {name: tensor for name, tensor in base.items() if tensor[0] == "BF16"}
bf16_target = alter(bf16, CHANGES)


def index_delta(path, old, new, encoding, checksum, version, base_version, files, pack, dense):
    names = changed(old, new)
    weight_map = {}
    for number in range(files):
        tensors, sums = {}, {}
        for name in names[number::files]:
            before, after = old[name][2], new[name][2]
            if encoding == "xor":
                body = xored(before, after)
            else:
                at = places(before, after, 1)
                body = struct.pack("<I", len(at)) + b"".join(struct.pack("<I", p) for p in at) + take(after, at, 1)
            data = pack(body)
            tensors[name], sums[name] = ("U8", [len(data)], data), CHECKSUM[checksum](after)
            weight_map[name] = f"model-{number:05d}-of-{files:05d}.safetensors"
        put(f"{path}/model-{number:05d}-of-{files:05d}.safetensors", safetensors(tensors, sums))
    index = {
        "metadata": {
            "version": version, "base_version": base_version, "delta_encoding": encoding,
            "compression_format": "zstd", "checksum_format": checksum,
        },
        "weight_map": weight_map,
    }
    text = json.dumps(index, sort_keys=True, separators=(",", ":")) if dense else json.dumps(index)
    put(f"{path}/model.safetensors.index.json", text.encode())


def trl(path, old, new, flavour, more=(), extra=None):
    names = changed(old, new) + list(more)
    index, value = (".indices", ".values") if flavour in "ab" else (".idx", ".val")
    tensors, count = {}, 0
    for name in names:
        at = places(old[name][2], new[name][2], 2)
        count += len(at)
        if flavour == "gap_delta":
            wide = max(gaps(at), default=0) > 65535
            dtype, data = ("U32", "I") if wide else ("U16", "H")
            data = struct.pack(f"<{len(at)}{data}", *gaps(at))
        else:
            dtype, data = "I32", struct.pack(f"<{len(at)}i", *at)
        tensors[name + index] = (dtype, [len(at)], data)
        tensors[name + value] = ("BF16", [len(at)], take(new[name][2], at, 2))
    metadata = {
        "format": "sparse_weight_patch", "version": "1", "model_version": "8",
        "num_changed_params": str(len(changed(old, new))), "total_changed_elements": str(count), "total_elements": "1",
        "sparsity": "0.5",
    }
    if flavour in "ab":
        metadata["changed_params"] = json.dumps(sorted(names))
    else:
        metadata["encoding"] = flavour
    if flavour == "a":
        everything = b"".join(new[name][2] for name in sorted(new))
        metadata |= {
            "prev_model_version": "7", "anchor_step": "1", "base_model_id": "toy",
            "checksum_sha256": hashlib.sha256(everything).hexdigest(),
        }
    else:
        metadata["sparse"] = "True"
    put(path, safetensors(tensors | (extra or {}), metadata))


def skyrl(path, old, new):
    rows, payloads = [], {}
    for number, name in enumerate(changed(old, new)):
        dtype, shape, after = new[name]
        data = frame(xored(old[name][2], after))
        kind = "sha256" if number % 2 else "xxh3-128"
        payloads[f"payload {number}"] = ("U8", [len(data)], data)
        rows.append({
            "name": name, "dtype": TORCH[dtype], "shape": shape, "uncompressed_num_bytes": len(after),
            "compressed_num_bytes": len(data), "payload_file": "delta-rank00000-file000000.safetensors",
            "payload_key": f"payload {number}", "checksum": CHECKSUM[kind](after), "checksum_algorithm": kind,
        })
    put(f"{path}/delta-rank00000-file000000.safetensors", safetensors(payloads))
    manifest = {
        "version": 8, "base_version": 7, "tensors": rows,
        "total_uncompressed_num_bytes": sum(row["uncompressed_num_bytes"] for row in rows),
        "total_compressed_num_bytes": sum(row["compressed_num_bytes"] for row in rows),
        "payload_files": ["delta-rank00000-file000000.safetensors"],
    }
    put(f"{path}/manifest.json", json.dumps(manifest).encode())


def nemo_rl(path, old, new, operation):
    locations, groups, widths, items = b"", {}, {}, []
    for name in changed(old, new):
        dtype, shape, after = new[name]
        width = WIDTH[dtype]
        at = places(old[name][2], after, width)
        # One tensor in two items, as when payloads are merged.
        for part in ([at[:2], at[2:]] if name == "layers.0.weight" else [at]):
            group = groups.setdefault(width, len(groups))
            start = widths.setdefault(group, b"")
            values = take(after, part, width)
            if operation == "xor":
                values = xored(values, take(old[name][2], part, width))
            item = {"name": name, "shape": shape, "dtype": TORCH[dtype], "operation": operation,
                    "index_start": len(locations), "value_group": group, "value_start": len(start) // width,
                    "value_end": len(start + values) // width}
            if part[-1] - part[0] + 1 == len(part):
                item |= {"index_encoding": "range", "range_start": part[0]}
            else:
                wide = max(gaps(part)) > 65535
                locations += struct.pack(f"<{len(part)}{'I' if wide else 'H'}", *gaps(part))
                item["index_encoding"] = "deltas"
            widths[group] = start + values
            items.append(item | {"index_end": len(locations)})
    put(f"{path}/locations.bin", locations)
    put(f"{path}/metadata.json", json.dumps(items).encode())
    for width, group in groups.items():
        put(f"{path}/values-{group}-{ {1: 'uint8', 2: 'int16', 4: 'int32', 8: 'int64'}[width] }.bin", widths[group])


def grail(path, old, new, version):
    code = {"int32": "i", "uint16": "H", "uint8": "B"}
    rows, data = [], b""
    for name in sorted(changed(old, new)):
        dtype, shape, after = new[name]
        at = places(old[name][2], after, WIDTH[dtype])
        values = take(after, at, WIDTH[dtype])
        row = {"name": name, "shape": shape, "num_nonzero": len(at), "value_dtype": TORCH[dtype]}
        if version == 2:
            indices = struct.pack(f"<{len(at)}i", *[b - a for a, b in zip([0] + at, at)])
        else:
            width = 1
            for dim in shape[1:]:
                width *= dim
            line, column = [p // width for p in at], [p % width for p in at]
            down = [b - a for a, b in zip([0] + line, line)]
            right = [c if i == 0 or down[i] else c - column[i - 1] for i, c in enumerate(column)]
            kinds = ("int32", "int32") if version == 3 else (
                "uint8" if max(down) < 256 else "int32", "uint16" if max(right) < 65536 else "int32")
            first = struct.pack(f"<{len(at)}{code[kinds[0]]}", *down)
            second = struct.pack(f"<{len(at)}{code[kinds[1]]}", *right)
            indices = first + second
            row |= {"rows_size": len(first), "cols_size": len(second)}
            if version == 31:
                row |= {"row_dtype": kinds[0], "col_dtype": kinds[1]}
        row |= {"indices_offset": len(data), "indices_size": len(indices),
                "values_offset": len(data) + len(indices), "values_size": len(values)}
        data += indices + values
        rows.append(row)
    header = json.dumps({"version": version, "tensors": rows}, separators=(",", ":")).encode()
    put(path, frame(struct.pack("<I", len(header)) + header + data))


def main():
    for entry in os.scandir(HERE):
        if entry.is_dir():
            shutil.rmtree(entry.path)
    put("states/base.safetensors", safetensors(base))
    put("states/target.safetensors", safetensors(target))
    put("states/bf16-base.safetensors", safetensors(bf16))
    put("states/bf16-target.safetensors", safetensors(bf16_target))
    index_delta("index-delta/xor-blake3", base, target, "xor", "blake3", "000008", "000007", 2, frame, False)
    index_delta("index-delta/xor-plain-frames", base, target, "xor", "xxh3-128", "000008", "000007", 1, plain_frame, False)
    index_delta("index-delta/overwrite-adler32", base, target, "overwrite", "adler32", "000008", "000007", 1, frame, False)
    index_delta("index-delta/modelexpress", base, target, "xor", "adler32", "run/b", "run/a", 1, frame, True)
    index_delta("index-delta/nothing", base, base, "xor", "xxh3-128", "000008", "000007", 0, frame, False)
    trl("trl/a.safetensors", bf16, bf16_target, "a")
    trl("trl/a-nothing.safetensors", bf16, bf16, "a", extra={"__empty_delta__": ("I32", [1], bytes(4))})
    trl("trl/b.safetensors", bf16, bf16_target, "b")
    trl("trl/c-raw.safetensors", bf16, bf16_target, "raw")
    trl("trl/c-gaps.safetensors", bf16, bf16_target, "gap_delta", more=["empty"])
    put("trl/b-anchor.safetensors", safetensors(bf16, {
        "format": "sparse_weight_patch", "version": "1", "sparse": "False", "model_version": "7", "sparsity": "0.0"}))
    skyrl("skyrl", base, target)
    nemo_rl("nemo-rl/xor", base, target, "xor")
    nemo_rl("nemo-rl/overwrite", base, target, "overwrite")
    known = [c for c in CHANGES + OTHERS if base[c[0]][0] in ("BF16", "F32") and base[c[0]][1]]
    for version in (2, 3, 31):
        grail(f"grail/v{version}.zst", base, alter(base, known), version)
    put("states/grail-target.safetensors", safetensors(alter(base, known)))


if __name__ == "__main__":
    main()
