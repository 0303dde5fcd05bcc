# A disk that is full: one line, exit code 1, and what stood there before is untouched. A limit on the size of files
# stands in for the disk.
. "$(dirname "$0")/common.sh"

small() {
  (
    ulimit -f 16  # blocks of 512 bytes; 1024 in some shells
    "$@"
  )
}
# refused FILE ARGUMENT...: as expect_error, but standard output may have what was done before the file.
refused() {
  echo before > "$1"
  code=0
  small "$MLX_MAMBA" "$2" "$3" "$4" --"$5" "$1" > out 2> err || code=$?
  [ "$code" -eq 1 ] || fail "exit code $code: $(cat err)"
  [ "$(wc -l < err)" -eq 1 ] || fail "not one line: $(cat err)"
  grep -q "^mlx-mamba: $1: cannot be written: " err || fail "message: $(cat err)"
  [ "$(cat "$1")" = before ] || fail "$1 was changed"
  [ "$(ls "$1"*)" = "$1" ] || fail "something was left behind: $(ls)"
}
refused state generate --prompt "To be" save-state
refused logits score --text "To be, or not to be, that is the question" logits

code=0
small "$MLX_MAMBA" convert --out x > out 2> err || code=$?
[ "$code" -eq 1 ] || fail "exit code $code: $(cat err)"
grep -q "^mlx-mamba: x/.*: cannot be written: " err || fail "message: $(cat err)"
[ ! -e x/config.json ] || fail "half a model looks whole"

# Standard output on a full disk.
if [ -c /dev/full ]; then
  for arguments in "generate --prompt a --max-tokens 2" "tokenize --text a" "info" "--help" "score --text To_be"; do
    code=0
    mlx_mamba $arguments > /dev/full 2> err || code=$?
    [ "$code" -eq 1 ] || fail "exit code $code: $arguments"
    grep -q '^mlx-mamba: standard output: No space left' err || fail "message: $(cat err)"
  done
fi
