#!/usr/bin/env bash
# Tests the Python package with the real trainers and engines, on a CPU: torch, transformers, TRL, vLLM, SGLang.
#
# The environment is made once from .ci/engines/requirements.lock (4 GB, some minutes) and kept under target/venvs until
# the lock changes. Where its wheels cannot be had, this says that the tests are skipped. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "the tests of trainers and engines are skipped: $*"
    exit 0
}

python="${PYTHON:-python3.11}"
command -v "$python" >/dev/null || skip "there is no $python"
command -v gcc >/dev/null && command -v readelf >/dev/null || skip "there is no gcc or no readelf"
[ "$(uname -sm)" = "Linux x86_64" ] || skip "the wheels are for Linux on x86-64"

pip=(-m pip install --quiet --no-compile --disable-pip-version-check --no-deps)
hash=$(cat .ci/engines/requirements.lock .ci/engines/stand_ins.py | sha256sum | cut -c1-16)
venv="$PWD/target/venvs/engines-$hash"
if [ ! -e "$venv/complete" ]; then
    # Environments of former locks are of no more use, and large.
    rm -rf target/venvs/engines-*
    "$python" -m venv "$venv"
    "$venv/bin/python" "${pip[@]}" -r .ci/engines/requirements.lock || skip "their wheels cannot be had"
    "$venv/bin/python" .ci/engines/stand_ins.py \
        "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
    touch "$venv/complete"
fi

wheels="$PWD/target/wheels/engines"
rm -rf "$wheels"
"$venv/bin/maturin" build --quiet --locked --features shared-build --manifest-path crates/tensorpatch-python/Cargo.toml --out "$wheels"
"$venv/bin/python" "${pip[@]}" --force-reinstall "$wheels"/*.whl

# Each server is two or three processes that import torch and an engine: without byte code that is 25 s of compiling for
# each of them, on two cores.
unset PYTHONDONTWRITEBYTECODE
export HF_HUB_OFFLINE=1 NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
"$venv/bin/python" -m pytest -p no:cacheprovider tests/python/engines "$@"
