# A reader that goes away ends the program at once and without a word.
. "$(dirname "$0")/common.sh"

{
  code=0
  mlx_mamba generate --prompt "ROMEO:" --max-tokens 100000 --ignore-eos --seed 1 2> err || code=$?
  echo "$code" > code
} | head -c 5 > out
[ "$(wc -c < out)" -eq 5 ] || fail "head got less"
[ ! -s err ] || fail "stderr: $(cat err)"
[ "$(cat code)" -eq 141 ] || fail "exit code $(cat code)"
