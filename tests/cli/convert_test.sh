# A converted model is the same model.
. "$(dirname "$0")/common.sh"

mlx_mamba convert --out new/model > out 2> err
[ ! -s out ] || fail "printed to stdout: $(cat out)"
for file in config.json model.safetensors tokenizer.json; do
  [ -s new/model/$file ] || fail "$file is missing: $(ls new/model)"
done
mlx_mamba generate --prompt "ROMEO:" --temperature 0 --max-tokens 20 --json > a
mlx_mamba generate --model new/model --prompt "ROMEO:" --temperature 0 --max-tokens 20 --json > b
expect_same a b

mlx_mamba convert --model new/model --dtype bfloat16 --out half 2> err
mlx_mamba info --model half --json > i
json i "d[0]['dtype'] == 'bfloat16'"
[ "$(wc -c < half/model.safetensors)" -lt "$(($(wc -c < new/model/model.safetensors) * 6 / 10))" ] || fail "is not smaller"
mlx_mamba generate --model half --prompt "ROMEO:" --temperature 0 --max-tokens 5 > text

# Again into the same folder.
mlx_mamba convert --model new/model --dtype bfloat16 --out half 2> err
mlx_mamba generate --model half --prompt "ROMEO:" --temperature 0 --max-tokens 5 > again
expect_same text again

# From state-spaces' layout, a PyTorch file.
golden=$MAMBA_SOURCE_DIR/tests/golden/models/state_spaces_padded
mlx_mamba convert --model "$golden" --out spaces 2> err
grep -q '"model_type": "mamba"' spaces/config.json || fail "config: $(cat spaces/config.json)"
for model in "$golden" spaces; do
  mlx_mamba generate --model "$model" --tokens 3,1,2 --temperature 0 --max-tokens 12 --ignore-eos --json
done > both
json both "len(d) == 2 and d[0] == d[1]"

expect_error 2 "is the model itself" convert --model half --out half
expect_error 2 "is the model itself" convert --model half --out ./new/../half
: > file
expect_error 1 "file/below: " convert --model half --out file/below
expect_error 1 "there is no such folder" convert --model ./absent --out x
[ ! -e x ] || fail "a folder was made for a model that is not there"
