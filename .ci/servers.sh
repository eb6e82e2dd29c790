# Starts the stores that the integration tests talk to, all on the loopback interface. To be sourced:
#
#     . .ci/servers.sh && cargo test -p tensorpatch-store --features aws,azure
#
# It needs Python and Node with their package managers, exports a variable for each store, and stops them when the shell
# that sourced it ends. Tests of a store whose variable is not set say so and pass.

servers_dir="${TENSORPATCH_SERVERS_DIR:-$PWD/target/servers}"
mkdir -p "$servers_dir/logs"

if [ ! -x "$servers_dir/venv/bin/moto_server" ]; then
    python3 -m venv "$servers_dir/venv"
    "$servers_dir/venv/bin/pip" install --quiet 'moto[server]==5.2.*'
fi
if [ ! -x "$servers_dir/node_modules/.bin/azurite-blob" ] || [ ! -x "$servers_dir/node_modules/.bin/s3rver" ]; then
    npm install --silent --no-fund --no-audit --prefix "$servers_dir" azurite@3 s3rver@3
fi

server_pids=()
stop_servers() {
    for pid in "${server_pids[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
}
trap stop_servers EXIT

start_server() { # NAME PORT COMMAND...
    local name=$1 port=$2
    shift 2
    "$@" >"$servers_dir/logs/$name.log" 2>&1 &
    server_pids+=($!)
    for _ in $(seq 150); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            return 0
        fi
        sleep 0.2
    done
    echo "$name does not answer on port $port; see $servers_dir/logs/$name.log" >&2
    return 1
}

rm -rf "$servers_dir/azurite" "$servers_dir/s3rver"
mkdir -p "$servers_dir/azurite" "$servers_dir/s3rver"
start_server moto 15601 "$servers_dir/venv/bin/moto_server" -H 127.0.0.1 -p 15601
start_server hub 15602 python3 .ci/hub_gateway.py 15602 15605 15601
start_server azurite 15603 "$servers_dir/node_modules/.bin/azurite-blob" --silent --skipApiVersionCheck \
    --inMemoryPersistence --blobHost 127.0.0.1 --blobPort 15603
start_server s3rver 15604 "$servers_dir/node_modules/.bin/s3rver" -a 127.0.0.1 -p 15604 \
    -d "$servers_dir/s3rver" --configure-bucket tensorpatch

python3 .ci/make_buckets.py 15601 15603

export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
export TENSORPATCH_TEST_S3=http://127.0.0.1:15601
export TENSORPATCH_TEST_HUB=http://127.0.0.1:15602
export TENSORPATCH_TEST_AZURE=http://127.0.0.1:15603/devstoreaccount1
export TENSORPATCH_TEST_LYING_S3=http://127.0.0.1:15604
