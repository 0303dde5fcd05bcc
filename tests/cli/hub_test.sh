# Models by name: downloaded once, converted once, then found without a network.
. "$(dirname "$0")/common.sh"

[ -n "${HUB_TEST_SERVER:-}" ] || skip "the test hub is not built (needs cpp-httplib)"
tiny_model tiny
mkdir -p hub/someone
cp -r tiny hub/someone/tiny
cp -r "$MAMBA_SOURCE_DIR/tests/golden/lora/regex" hub/someone/adapter
sed 's|"models/base"|"someone/tiny"|' hub/someone/adapter/adapter_config.json > c && mv c hub/someone/adapter/adapter_config.json
mkdir -p hub/state-spaces/tiny hub/EleutherAI/gpt-neox-20b
cp "$MAMBA_SOURCE_DIR"/tests/golden/models/state_spaces_padded/config.json \
  "$MAMBA_SOURCE_DIR"/tests/golden/models/state_spaces_padded/pytorch_model.bin hub/state-spaces/tiny
cp -r hub/state-spaces/tiny original
cp "$MAMBA_SOURCE_DIR"/tests/golden/tokenizer/bytes.json hub/EleutherAI/gpt-neox-20b/tokenizer.json
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

# An adapter by name, with the model that it names.
mlx_mamba generate --adapter someone/adapter --tokens 1,2,3 --temperature 0 --max-tokens 5 --ignore-eos > hub.ids 2> err
mlx_mamba generate --model tiny --adapter hub/someone/adapter --tokens 1,2,3 --temperature 0 --max-tokens 5 --ignore-eos > adapted.ids
expect_same hub.ids adapted.ids
if cmp -s adapted.ids own.ids; then fail "the adapter does nothing"; fi

# A tokenizer alone: no weights are fetched for it, nor a configuration of some other kind of model read.
mlx_mamba tokenize --model state-spaces/tiny --text hello > ids 2> err
mlx_mamba tokenize --tokenizer hub/EleutherAI/gpt-neox-20b/tokenizer.json --text hello > own.ids.text
expect_same ids own.ids.text
mlx_mamba tokenize --model EleutherAI/gpt-neox-20b --text hello > ids 2> err
expect_same ids own.ids.text
[ ! -e "$HOME/.cache/mlx-mamba" ] || fail "tokenize has converted a model"
[ -z "$(find "$HF_HOME" -name pytorch_model.bin)" ] || fail "tokenize has fetched weights"

# A repository of state-spaces: a PyTorch file that is converted once and kept, and another repository's tokenizer.
mlx_mamba generate --model state-spaces/tiny --tokens 1,2,3 --temperature 0 --max-tokens 5 --json > hub.json 2> err
mlx_mamba generate --model original --tokens 1,2,3 --temperature 0 --max-tokens 5 --json > own.json
cat hub.json own.json > both
json both "d[0]['tokens'] == d[1]['tokens'] and d[0]['logprobs'] == d[1]['logprobs'] and d[1]['text'] == ''"
mlx_mamba info --model state-spaces/tiny --json > i 2> err
json i "d[0]['tokenizer'] and '/converted/' in d[0]['directory'] and d[0]['directory'].startswith('$HOME/.cache/mlx-mamba')"
json i "any(f['path'].endswith('/model.safetensors') for f in d[0]['files'])"
MLX_MAMBA_CACHE="$work/other" mlx_mamba info --model state-spaces/tiny --json > i 2> err
json i "d[0]['directory'].startswith('$work/other/')"

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
HF_HUB_OFFLINE=1 mlx_mamba generate --model state-spaces/tiny --tokens 1,2,3 --temperature 0 --max-tokens 5 --json > again 2> err
expect_same again hub.json
[ ! -s err ] || fail "stderr: $(cat err)"
