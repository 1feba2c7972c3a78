# Sourced by scripts that start a server for a command: runs the command "$@" in front of it and ends as it ends. The traps on
# EXIT that stop the server are the caller's.
# In a process group of its own, so that an interrupt reaches it once: from here. It is waited for before its database goes.
set -m
"$@" &
command=$!
set +m
trap 'kill -INT -- "-$command" 2>/dev/null || true' INT
trap 'kill -TERM -- "-$command" 2>/dev/null || true' TERM HUP
status=0
wait "$command" || status=$?
while kill -0 "$command" 2>/dev/null; do
    status=0
    wait "$command" || status=$?
done
exit "$status"
