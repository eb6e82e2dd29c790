#!/bin/sh
# Makes the picture of a report in the book, from a stream of the demo: docs/pictures.sh [PROGRAM]
#
# It needs chromium. The stream is the same each time but for its id and the times.
set -eu

program=${1:-tensorpatch}
docs=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$program" demo --size 8MiB --steps 24 --keep "$work/demo" --quiet
"$program" anchor "$work/demo/stream" --baseline "$work/demo/baseline" --quiet
(cd "$work/demo" && "$program" report stream -o ../report.html --quiet)
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" \
    --window-size=900,1260 --screenshot="$docs/report.png" "file://$work/report.html" 2>/dev/null
