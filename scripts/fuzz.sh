#!/usr/bin/env bash
# Fuzzes one target with libFuzzer, guided by coverage, on the stable compiler.
#   scripts/fuzz.sh TARGET SECONDS
# What it finds interesting goes into fuzz/found/TARGET; what is worth keeping is moved to fuzz/corpus/TARGET by hand
# (`scripts/fuzz.sh TARGET merge` picks the few that reach everything).
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
target=$1
seconds=${2:-60}
[ -f "targets/$target.rs" ] || { echo "No such target; there are: $(basename -s .rs -a targets/*.rs | xargs)" >&2; exit 2; }
host=$(rustc -vV | sed -n 's/^host: //p')
# What `cargo fuzz` sets, less the sanitizers: there is no unsafe code here. A target of its own name leaves build scripts
# and macros alone.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
cargo build --quiet --locked --target "$host" --bin "$target"
binary=target/$host/debug/$target
mkdir -p "found/$target" "corpus/$target" artifacts
if [ "$seconds" = merge ]; then
    # The fewest and shortest that reach everything both reach.
    new=$(mktemp -d)
    "$binary" -merge=1 -max_len=512 "$new" "corpus/$target" "found/$target"
    rm -r "corpus/$target"
    mv "$new" "corpus/$target"
    chmod 755 "corpus/$target"
    exit
fi
exec "$binary" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="artifacts/$target-" "found/$target" "corpus/$target"
