#!/usr/bin/env bash
# Builds the wheel and tests it: on several versions of Python with NumPy alone, then all tests of the package, then
# those with tensors of torch and those with Ray. Environments are kept under target/venvs until their lock files change. Where packages
# cannot be had, this says that the tests are skipped. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "the tests of the Python package are skipped: $*"
    exit 0
}

python="${PYTHON:-python3.11}"
command -v "$python" >/dev/null || skip "there is no $python"
pip=(-m pip install --quiet --no-compile --disable-pip-version-check --no-deps)
numpy=$(grep '^numpy==' tests/python/requirements.lock)

# environment NAME PYTHON LOCK...: the directory of an environment with what the lock files list, made if it is missing.
environment() {
    local name=$1 python=$2 hash
    shift 2
    hash=$(cat "$@" <("$python" --version) | sha256sum | cut -c1-16)
    local venv="$PWD/target/venvs/$name-$hash"
    if [ ! -e "$venv/complete" ]; then
        rm -rf "target/venvs/$name"-*
        "$python" -m venv "$venv" >&2
        local lock
        for lock in "$@"; do
            "$venv/bin/python" "${pip[@]}" -r "$lock" >&2 || return 1
        done
        if [ "$name" = torch ]; then
            local site
            site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
            "$venv/bin/python" .ci/engines/stand_ins.py "$site" >&2
        fi
        touch "$venv/complete"
    fi
    echo "$venv"
}

# What the first process of an environment compiles, those after it need not.
unset PYTHONDONTWRITEBYTECODE
plain=$(environment python "$python" tests/python/requirements.lock) || skip "their packages cannot be had"
wheels="$PWD/target/wheels/python"
rm -rf "$wheels"
"$plain/bin/maturin" build --quiet --locked --features shared-build --manifest-path crates/tensorpatch-python/Cargo.toml --out "$wheels"

# A user's environment: the wheel, NumPy, and nothing else; on every version of Python that is here.
for interpreter in python3.10 "$python" python3.12 python3.13 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[0-9].*/bin/python3; do
    "$interpreter" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue
    version=$("$interpreter" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    case " ${tried:-} " in *" $version "*) continue ;; esac
    tried="${tried:-} $version"
    bare="$PWD/target/venvs/bare"
    rm -rf "$bare"
    "$interpreter" -m venv "$bare"
    "$bare/bin/python" "${pip[@]}" "$numpy" "$wheels"/*.whl || skip "NumPy cannot be had for Python $version"
    "$bare/bin/python" -I tests/python/bare.py
done

"$plain/bin/python" "${pip[@]}" --force-reinstall "$wheels"/*.whl
"$plain/bin/python" -m pytest -p no:cacheprovider -q tests/python/core "$@"

if [ "$(uname -sm)" = "Linux x86_64" ] && [ -e .ci/engines/stand_ins.py ] && command -v gcc readelf >/dev/null &&
    torch=$(environment torch "$python" tests/python/requirements.lock tests/python/torch.lock); then
    "$torch/bin/python" "${pip[@]}" --force-reinstall "$wheels"/*.whl
    "$torch/bin/python" -m pytest -p no:cacheprovider -q tests/python/core/test_torch.py "$@"
else
    echo "torch cannot be had here: the tests with its tensors are skipped"
fi

if ray=$(environment ray "$python" tests/python/requirements.lock tests/python/ray.lock); then
    "$ray/bin/python" "${pip[@]}" --force-reinstall "$wheels"/*.whl
    "$ray/bin/python" -m pytest -p no:cacheprovider -q tests/python/core/test_ray.py "$@"
else
    echo "Ray cannot be had here: the tests with its actors are skipped"
fi
