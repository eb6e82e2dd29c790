#!/usr/bin/env bash
# The tests of everything that reads or makes patches, for a big-endian machine of 64 bits, a little-endian one of 32, and
# one with NEON, emulated.
# Needs the targets of rustup and, from Debian: qemu-user gcc-s390x-linux-gnu libc6-dev-s390x-cross gcc-i686-linux-gnu libc6-dev-i386-cross
# gcc-aarch64-linux-gnu libc6-dev-arm64-cross
# Not a part of .ci/run: it builds everything three times more, and takes more than a quarter of an hour.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(-p tensorpatch-format -p tensorpatch-codec -p tensorpatch-checkpoint -p tensorpatch-delta
    -p tensorpatch-reference -p tensorpatch-testkit -p tensorpatch-conformance)

run() {
    local target=$1 prefix=$2 emulator=$3 upper
    upper=$(tr 'a-z-' 'A-Z_' <<<"$target")
    export "CC_${target//-/_}=$prefix-gcc" "AR_${target//-/_}=$prefix-ar"
    export "CARGO_TARGET_${upper}_LINKER=$prefix-gcc" "CARGO_TARGET_${upper}_RUNNER=$emulator -L /usr/$prefix"
    # Some tests start their own programs again, which an emulated process cannot.
    cargo test --locked --target "$target" "${packages[@]}" -- --skip a_killed_writer_is_swept_by_the_next_one \
        --skip hostile_files_cost_no_more_memory_than_their_size_and_the_limits_explain \
        --skip work_is_done_by_fewer_threads_where_the_system_gives_no_more
}

run s390x-unknown-linux-gnu s390x-linux-gnu qemu-s390x
run i686-unknown-linux-gnu i686-linux-gnu qemu-i386
run aarch64-unknown-linux-gnu aarch64-linux-gnu qemu-aarch64
