#!/usr/bin/env bash
# Bytes of the difference between two files, by the tools that are installed: docs/compare.md.
#
#     docs/compare.sh BASE.safetensors TARGET.safetensors
set -euo pipefail

base=$1 target=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# row NAME FILE COMMAND...: runs a command that makes FILE, and prints its bytes.
row() {
    local name=$1 file=$2
    shift 2
    command -v "$1" >/dev/null || { printf '| %s | not installed | |\n' "$name"; return; }
    "$@" >/dev/null 2>&1
    local bytes whole
    bytes=$(stat -c %s "$file") whole=$(stat -c %s "$target")
    printf '| %s | %s | %s %% |\n' "$name" "$(sed -E ':a; s/([0-9])([0-9]{3})($|,)/\1,\2\3/; ta' <<<"$bytes")" \
        "$(awk "BEGIN { printf \"%.2f\", 100 * $bytes / $whole }")"
}

printf '| command | bytes | of the file |\n|---|---|---|\n'
row '`tensorpatch diff`' "$scratch/t" tensorpatch diff "$base" "$target" -o "$scratch/t"
row '`bsdiff`' "$scratch/b" bsdiff "$base" "$target" "$scratch/b"
row '`zstd -19 --patch-from`' "$scratch/z19" zstd -q -19 --patch-from="$base" "$target" -o "$scratch/z19"
row '`xdelta3 -9`' "$scratch/x" xdelta3 -9 -e -s "$base" "$target" "$scratch/x"
cp "$base" "$scratch/copy"
row '`rsync --only-write-batch -B 700`' "$scratch/r" \
    rsync --no-whole-file -B 700 --only-write-batch="$scratch/r" "$target" "$scratch/copy"
row '`zstd -19`, no base' "$scratch/n" zstd -q -19 "$target" -o "$scratch/n"
