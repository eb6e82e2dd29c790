#!/usr/bin/env bash
# Packs the command for machines that have no Rust: a static binary, in an archive and as a Debian package, each with man
# pages, completions, the units of examples/deploy and the licences; then tries both as their users do.
# Needs the target x86_64-unknown-linux-musl of rustup, and musl-gcc (Debian: musl-tools) and dpkg-deb. What lies below
# target/package/dist is what a release hands out. Not a part of .ci/run: it is one more release build.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "the packages are not built: $*"
    exit 0
}

target=x86_64-unknown-linux-musl
[ "$(uname -m)" = x86_64 ] || skip "they are made on x86-64 alone"
rustup target add "$target" >/dev/null 2>&1 || skip "the target $target cannot be had"
if ! command -v musl-gcc >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && apt-get install -y -qq musl-tools; } >/dev/null || true
fi
command -v musl-gcc >/dev/null || skip "there is no musl-gcc"

out="$PWD/target/package"
cargo build --quiet --release --locked --target "$target" --target-dir "$out" --package tensorpatch-cli
binary="$out/$target/release/tensorpatch"
version=$("$binary" --version | cut -d' ' -f2)
dist="$out/dist"
rm -rf "$dist"

# The tree of the package; the archive is the same files side by side.
root="$dist/root"
share="$root/usr/share"
mkdir -p "$root/usr/bin" "$share/man/man1" "$share/bash-completion/completions" "$share/zsh/vendor-completions" \
    "$share/fish/vendor_completions.d" "$share/doc/tensorpatch/examples"
install -m 755 "$binary" "$root/usr/bin/tensorpatch"
"$binary" man "$share/man/man1"
gzip -9n "$share"/man/man1/*.1
"$binary" completions bash >"$share/bash-completion/completions/tensorpatch"
"$binary" completions zsh >"$share/zsh/vendor-completions/_tensorpatch"
"$binary" completions fish >"$share/fish/vendor_completions.d/tensorpatch.fish"
cp README.md CHANGELOG.md SECURITY.md LICENSE-MIT LICENSE-APACHE "$share/doc/tensorpatch/"
cp LICENSE-MIT "$share/doc/tensorpatch/copyright"
cp examples/deploy/* "$share/doc/tensorpatch/examples/"

# The same bytes for the same sources.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH
name="tensorpatch-$version-$target"
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --transform "s,^\.,$name," \
    -C "$root/usr" -cf - . | gzip -9n >"$dist/$name.tar.gz"

size=$(du --apparent-size -ks "$root/usr" | cut -f1)
mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<CONTROL
Package: tensorpatch
Version: ${version/-/\~}
Architecture: amd64
Maintainer: The tensorpatch authors <noreply@example.invalid>
Section: science
Priority: optional
Installed-Size: $size
Recommends: ca-certificates
Description: delta weight sync for safetensors checkpoints
 Publishes small lossless patches of a model to a bucket, and keeps replicas of
 it at any version.
CONTROL
if command -v dpkg-deb >/dev/null; then
    dpkg-deb --root-owner-group --build "$root" "$dist/tensorpatch_${version/-/\~}_amd64.deb" >/dev/null
fi
rm -r "$root"
(cd "$dist" && shopt -s nullglob && sha256sum -- *.tar.gz *.deb >SHA256SUMS)

# As a user has them: unpacked elsewhere, with an empty environment.
tried="$out/tried"
rm -rf "$tried" && mkdir -p "$tried/archive" "$tried/package"
tar -xzf "$dist/$name.tar.gz" -C "$tried/archive" --strip-components=1
! ls "$dist"/*.deb >/dev/null 2>&1 || dpkg-deb -x "$dist"/*.deb "$tried/package"
fixtures="$PWD/tests/fixtures/minilm-grpo"
read -r old new _ < <(echo "$fixtures"/*.safetensors)
for bin in "$tried/archive/bin" "$tried/package/usr/bin"; do
    [ -d "$bin" ] || continue
    if readelf -d "$bin/tensorpatch" | grep -q NEEDED; then
        echo "$bin/tensorpatch is not static" >&2
        exit 1
    fi
    (cd "$tried" && env -i HOME="$tried" PATH="$bin" /bin/sh -ec "
        tensorpatch diff '$old' '$new' -o p.tpatch --json >diff.json
        tensorpatch apply '$old' p.tpatch -o applied.safetensors --quiet
        tensorpatch publish '$old' --to stream --quiet
        tensorpatch pull stream replica --quiet")
    cmp "$tried/applied.safetensors" "$new"
    rm -rf "$tried/stream" "$tried/replica" "$tried/p.tpatch" "$tried/applied.safetensors" "$tried/.cache"
done
gunzip -t "$tried"/archive/share/man/man1/tensorpatch-publish.1.gz
cat "$dist/SHA256SUMS"
ls -l "$dist"
