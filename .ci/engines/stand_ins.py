"""Makes torch importable on a machine without CUDA libraries, for tests on a CPU.

    pip install --no-deps torch==VERSION nvidia-cuda-runtime==VERSION
    python stand_ins.py SITE_PACKAGES

The Linux wheel of torch links some 2 GB of NVIDIA libraries and does not load without them, even where no GPU is used.
For each library that is linked and not installed, this builds an empty one of the same name. A function that torch
looks up in it returns an error. The CUDA runtime must be the real one: torch asks it whether there is a driver.
It needs gcc and readelf.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ERROR = 100  # cudaErrorNoDevice: what NVIDIA's libraries answer where there is no GPU
NVIDIA = re.compile(r"lib(cu|nv|nccl)")
REAL = "libcudart."
SYMBOL = re.compile(r"cu|nv|Nv|nccl")
RETURNS_TEXT = re.compile(r"(String|Name|_string)$")


def readelf(option: str, path: Path) -> list[str]:
    command = ["readelf", "-W", option, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def linked(path: Path) -> list[str]:
    return [m[1] for line in readelf("-d", path) if (m := re.search(r"\(NEEDED\).*\[(.+)\]", line))]


def undefined(path: Path) -> list[tuple[str, str]]:
    """The symbols that a library expects from others, each with its version or an empty text."""
    found = []
    for line in readelf("--dyn-syms", path):
        columns = line.split()
        if len(columns) > 7 and columns[6] == "UND":
            name, _, version = columns[7].partition("@")
            if SYMBOL.match(name):
                found.append((name, version.strip("@")))
    return found


def build(target: Path, symbols: set[str], version: str) -> None:
    source = ["int tensorpatch_stand_in(void) { return 0; }"]
    for name in sorted(symbols):
        if RETURNS_TEXT.search(name):
            source.append(f'const char *{name}(void) {{ return "none"; }}')
        else:
            source.append(f"int {name}(void) {{ return {ERROR}; }}")
    with tempfile.TemporaryDirectory() as scratch:
        code, script = Path(scratch, "code.c"), Path(scratch, "versions")
        code.write_text("\n".join(source))
        command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{target.name}", "-o", target, code]
        if version:
            script.write_text(f"{version} {{ global: *; }};")
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)


def main() -> None:
    directory = Path(sys.argv[1], "torch", "lib")
    torch = [path for path in sorted(directory.glob("lib*.so*")) if path.name.startswith(("libtorch", "libc10"))]
    wanted: dict[str, set[str]] = {}
    for path in torch:
        for name, version in undefined(path):
            wanted.setdefault(version, set()).add(name)
    names = dict.fromkeys(name for path in torch for name in linked(path))
    missing = [n for n in names if NVIDIA.match(n) and not n.startswith(REAL) and not (directory / n).exists()]
    unversioned = wanted.pop("", set())
    for name in missing:
        version = name if name in wanted else "NVSHMEM" if name.startswith("libnvshmem") and "NVSHMEM" in wanted else ""
        # A symbol without a version may come from any library that is loaded: the first one has them all.
        symbols = wanted[version] if version else unversioned
        build(directory / name, symbols, version)
        if not version:
            unversioned = set()
    print(f"built {len(missing)} stand-ins in {directory}")


if __name__ == "__main__":
    main()
