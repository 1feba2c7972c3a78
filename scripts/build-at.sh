#!/usr/bin/env bash
# Builds the program as it was at a commit, and prints where it is.
#   scripts/build-at.sh COMMIT
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(git rev-parse --verify --short "$1^{commit}")
target=$PWD/target/at
if [ ! -x "$target/pulsehook-$commit" ]; then
    tree=$(mktemp -d)
    trap 'git worktree remove --force "$tree/tree"; rm -rf "$tree"' EXIT
    git worktree add --quiet --detach "$tree/tree" "$commit" >&2
    (cd "$tree/tree" && cargo build --locked --bin pulsehook --target-dir "$target") >&2
    cp "$target/debug/pulsehook" "$target/pulsehook-$commit"
fi
echo "$target/pulsehook-$commit"
