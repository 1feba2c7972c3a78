#!/usr/bin/env bash
# Runs a command beside a private ClickHouse, the engine the tests use too, and removes it afterwards whatever happens. The
# command finds its address in PULSEHOOK_BENCH_CLICKHOUSE. Usage: with-clickhouse.sh COMMAND…
set -euo pipefail
[ $# -gt 0 ] || { echo "Usage: with-clickhouse.sh COMMAND…" >&2; exit 2; }

root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/tests/tools/.venv/bin/python
[ -x "$python" ] || { echo "ClickHouse is missing: run scripts/need.sh clickhouse" >&2; exit 1; }

folder=$(mktemp -d "${TMPDIR:-/tmp}/pulsehook-clickhouse-XXXXXX")
server=
stop_server() {
    [ -n "$server" ] || return 0
    kill -TERM "$server" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$server" 2>/dev/null || break; sleep 0.1; done
    # Should it hang, its data is worth nothing anyway.
    kill -KILL "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
trap 'stop_server; rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# There before the server is, for whoever looks for the address in it.
: >"$folder/ready"
# In a session of its own: an interrupt from the terminal is for the command, which ends first.
setsid "$python" "$root/tests/fixtures/clickhouse/server.py" --data-dir "$folder/data" </dev/null \
    >"$folder/ready" 2>"$folder/log" &
server=$!
for _ in $(seq 600); do
    kill -0 "$server" 2>/dev/null || break
    address=$(sed -n 's|^ready http://\([^ ]*\) .*|\1|p' "$folder/ready")
    [ -z "$address" ] || break
    sleep 0.1
done
[ -n "${address:-}" ] || { cat "$folder/log" >&2; echo "ClickHouse does not start." >&2; exit 1; }

export PULSEHOOK_BENCH_CLICKHOUSE="clickhouse://$address"
# shellcheck source=scripts/in-front.sh
. "$(dirname "$0")/in-front.sh"
