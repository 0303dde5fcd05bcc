# Sourced by every test. ctest gives MLX_MAMBA, MAMBA_SOURCE_DIR, HUB_TEST_SERVER and, in builds with sanitizers,
# MAMBA_SANITIZED; the test runs in a folder of its own that goes away with it.
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export HOME="$work/home" HF_HOME="$work/hf" HF_HUB_OFFLINE=1 MAMBA_REQUIRE_KERNELS=1
unset MLX_MAMBA_CACHE XDG_CACHE_HOME HF_ENDPOINT HF_TOKEN HF_HUB_CACHE 2>/dev/null || true

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

skip() {
  echo "SKIPPED: $*" >&2
  exit 77
}

mlx_mamba() {
  "$MLX_MAMBA" "$@"
}

# A random model without tokenizer, in a folder of our own that a test may spoil: tiny_model NAME.
tiny_model() {
  mkdir "$1"
  cp "$MAMBA_SOURCE_DIR"/tests/golden/models/base/config.json "$MAMBA_SOURCE_DIR"/tests/golden/models/base/model.safetensors "$1"
}

# expect_error CODE PATTERN ARGUMENT...: that exit code, nothing on stdout, and on stderr one line that begins with the
# program's name and matches PATTERN.
expect_error() {
  code=$1
  pattern=$2
  shift 2
  got=0
  "$MLX_MAMBA" "$@" > out 2> err < /dev/null || got=$?
  [ "$got" -eq "$code" ] || fail "exit code $got, not $code: $* ($(cat err))"
  [ ! -s out ] || fail "printed to stdout: $* ($(head -c 200 out))"
  [ "$(wc -l < err)" -eq 1 ] || fail "not one line on stderr: $* ($(cat err))"
  grep -q '^mlx-mamba: ' err || fail "does not begin with the program's name: $(cat err)"
  grep -q -e "$pattern" err || fail "no \"$pattern\" in: $(cat err)"
}

expect_same() {
  cmp "$1" "$2" || fail "$1 and $2 differ"
}

expect_line() {
  grep -q -x -e "$1" "$2" || fail "no line \"$1\" in $2: $(cat "$2")"
}

# json FILE EXPRESSION: every line of FILE is JSON, and EXPRESSION holds of their list `d`.
json() {
  python3 -c "
import json, sys
d = [json.loads(line) for line in open(sys.argv[1], encoding='utf-8', newline='\n')]
assert $2, d
" "$1" || fail "$1: not so: $2"
}
