# Models by name: downloaded once, converted once, then found without a network.
. "$(dirname "$0")/common.sh"

[ -n "${HUB_TEST_SERVER:-}" ] || skip "the test hub is not built (needs cpp-httplib)"
tiny_model tiny
mkdir -p hub/someone
cp -r tiny hub/someone/tiny
mkfifo input
"$HUB_TEST_SERVER" --root hub < input > endpoint &
server=$!
exec 9> input
trap 'exec 9>&-; kill $server 2> /dev/null || true; rm -rf "$work"' EXIT
tries=0
while [ ! -s endpoint ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 200 ] || fail "the hub does not start"
  sleep 0.05
done
export HF_ENDPOINT="$(cat endpoint)"

expect_error 1 "someone/tiny" generate --model someone/tiny --tokens 1,2  # offline, and nothing is cached
unset HF_HUB_OFFLINE
mlx_mamba generate --model someone/tiny --tokens 1,2,3 --temperature 0 --max-tokens 5 --ignore-eos > hub.ids 2> err
mlx_mamba generate --model tiny --tokens 1,2,3 --temperature 0 --max-tokens 5 --ignore-eos > own.ids
expect_same hub.ids own.ids
mlx_mamba info --model someone/tiny --json > i 2> err
json i "d[0]['repository'] == 'someone/tiny' and len(d[0]['commit']) == 40"

expect_error_last_line() {
  code=0
  mlx_mamba "$@" > out 2> err || code=$?
  [ "$code" -eq 1 ] && [ ! -s out ] || fail "exit code $code: $*"
  tail -n 1 err | grep -q "^mlx-mamba: .*someone/" || fail "message: $(cat err)"
}
expect_error_last_line generate --model someone/absent --tokens 1
expect_error_last_line generate --model someone/tiny --revision no-such-branch --tokens 1

exec 9>&-
wait $server || true
HF_HUB_OFFLINE=1 mlx_mamba generate --model someone/tiny --tokens 1,2,3 --temperature 0 --max-tokens 5 --ignore-eos > again 2> err
expect_same again own.ids
[ ! -s err ] || fail "stderr: $(cat err)"
