# At temperature 0 the text depends on the prompt alone.
. "$(dirname "$0")/common.sh"

mlx_mamba generate --prompt "ROMEO:" --temperature 0 --max-tokens 40 > a 2> err
[ ! -s err ] || fail "stderr is not empty: $(cat err)"
[ "$(wc -c < a)" -gt 20 ] || fail "hardly any text: $(cat a)"
mlx_mamba generate --prompt "ROMEO:" --temperature 0 --max-tokens 40 --threads 1 --seed 7 > b
expect_same a b
mlx_mamba generate --prompt "ROMEO:" --temperature 0 --max-tokens 40 --threads 3 --device cpu > b
expect_same a b

# The same by ids, and through --json.
ids=$(mlx_mamba tokenize --text "ROMEO:")
mlx_mamba generate --tokens "$ids" --temperature 0 --max-tokens 40 > b
expect_same a b
mlx_mamba generate --tokens "$ids" --temperature 0 --max-tokens 40 --json > j
json j "len(d) == 1 and list(d[0]) == ['prompt_tokens', 'tokens', 'logprobs', 'text', 'finish_reason']"
json j "d[0]['prompt_tokens'] == [$ids] and len(d[0]['tokens']) == len(d[0]['logprobs']) == 40"
json j "d[0]['finish_reason'] == 'length' and all(p <= 0 for p in d[0]['logprobs'])"
json j "d[0]['text'] + '\n' == open('a', newline='').read()"
