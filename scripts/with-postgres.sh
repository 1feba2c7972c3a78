#!/usr/bin/env bash
# Runs a command beside a private PostgreSQL that is as durable as one in production, and removes it afterwards whatever
# happens. The command finds its address in PULSEHOOK_BENCH_POSTGRES. Usage: with-postgres.sh COMMAND…
set -euo pipefail
[ $# -gt 0 ] || { echo "Usage: with-postgres.sh COMMAND…" >&2; exit 2; }

# The newest of those that are packaged, else what is on the path.
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
if [ ! -x "$bin/initdb" ]; then
    command -v initdb >/dev/null || { echo "PostgreSQL's server programs are missing: apt-get install postgresql" >&2; exit 1; }
    bin=$(dirname "$(command -v initdb)")
fi

folder=$(mktemp -d "${TMPDIR:-/tmp}/pulsehook-postgres-XXXXXX")
as_owner=()
if [ "$(id -u)" -eq 0 ]; then
    # PostgreSQL refuses to run as root.
    chown postgres "$folder"
    as_owner=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi

server=
stop_server() {
    [ -n "$server" ] || return 0
    # A fast shutdown; should it hang, its data is worth nothing anyway.
    kill -INT "$server" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$server" 2>/dev/null || break; sleep 0.1; done
    kill -QUIT "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
trap 'stop_server; rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

(cd "$folder" && "${as_owner[@]}" "$bin/initdb" -D data -U postgres -A trust -E UTF8 --no-locale >"$folder/log" 2>&1) ||
    { cat "$folder/log" >&2; exit 1; }

# Somebody else may have the port; the next try has another one.
for _ in 1 2 3 4 5; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 40000))
    # In a session of its own: an interrupt from the terminal is for the command, which ends first.
    (cd "$folder" && exec setsid "${as_owner[@]}" "$bin/postgres" -D data -p "$port" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories="$folder" \
        -c fsync=on -c synchronous_commit=on -c full_page_writes=on \
        -c min_wal_size=1GB -c max_wal_size=4GB \
        -c shared_buffers=2GB -c max_connections=200) </dev/null >"$folder/log" 2>&1 &
    server=$!
    for _ in $(seq 600); do
        kill -0 "$server" 2>/dev/null || break
        if "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; then ready=yes; break; fi
        sleep 0.1
    done
    [ -z "${ready:-}" ] || break
    stop_server
done
[ -n "${ready:-}" ] || { cat "$folder/log" >&2; echo "PostgreSQL does not start." >&2; exit 1; }

# A server makes the files of its log once and then uses them again and again; everybody who commits waits while one is
# made. So they are made before anything is measured, as on a server that has been running for a while: 1 GB of them.
"$bin/psql" -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U postgres -d postgres <<'SQL'
DO $$
BEGIN
    FOR file IN 1..64 LOOP
        PERFORM pg_logical_emit_message(false, 'pulsehook', 'so that there is something in it');
        PERFORM pg_switch_wal();
    END LOOP;
END
$$;
CHECKPOINT;
SQL

export PULSEHOOK_BENCH_POSTGRES="postgres://postgres@127.0.0.1:$port"
# shellcheck source=scripts/in-front.sh
. "$(dirname "$0")/in-front.sh"
