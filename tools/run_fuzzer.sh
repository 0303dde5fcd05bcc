#!/bin/sh
# run_fuzzer.sh PROGRAM SEEDS WORK: runs a libFuzzer target for MAMBA_FUZZ_SECONDS (60). New inputs are kept in WORK, so
# that the next run goes on from there and the seeds stay what they are; an input that fails is left in WORK too.
set -eu
program=$1 seeds=$2 work=$3
mkdir -p "$work/corpus"
[ -d "$seeds" ] || {
  echo "there are no seeds in $seeds"
  exit 1
}
cd "$work"
set -- -max_total_time="${MAMBA_FUZZ_SECONDS:-60}" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1
if [ -f "$seeds.dict" ]; then
  set -- "$@" -dict="$seeds.dict"
fi
exec "$program" "$@" "$work/corpus" "$seeds"
