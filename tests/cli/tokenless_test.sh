# A model without a tokenizer works on ids.
. "$(dirname "$0")/common.sh"

tiny_model tiny
mlx_mamba generate --model tiny --tokens 1,2,3 --temperature 0 --max-tokens 6 --ignore-eos > ids
mlx_mamba generate --model tiny --tokens " 1, 2 ,3" --temperature 0 --max-tokens 6 --ignore-eos --json > j
json j "d[0]['prompt_tokens'] == [1, 2, 3] and d[0]['tokens'] == [$(cat ids)] and d[0]['text'] == ''"
json j "len(d[0]['tokens']) == 6"
printf '{"tokens": [1, 2, 3]}\n{"tokens": [4]}\n' > batch.jsonl
mlx_mamba generate --model tiny --batch-file batch.jsonl --temperature 0 --max-tokens 6 --ignore-eos --json > batch
head -n 1 batch > first
expect_same first j

expect_error 2 "prompt: this model has no tokenizer" generate --model tiny --prompt hello
expect_error 2 "need a tokenizer" generate --model tiny --tokens 1 --stop x
expect_error 2 "has no tokenizer.json" tokenize --model tiny --text hello
expect_error 2 "text: this model has no tokenizer" score --model tiny --text hello
mlx_mamba score --model tiny --tokens 1,2,3 > table
expect_line 'tokens: 3' table
