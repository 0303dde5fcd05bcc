# A tokenizer that cannot be read: one line, exit code 1; with ids alone a warning.
. "$(dirname "$0")/common.sh"

tiny_model m
refused() {
  expect_error 1 "m/tokenizer.json: $1" generate --model m --prompt hello --max-tokens 2
  expect_error 1 "m/tokenizer.json: $1" tokenize --model m --text hello
  expect_error 1 "m/tokenizer.json: $1" tokenize --tokenizer m/tokenizer.json --text hello
}
: > m/tokenizer.json
refused ""
echo '{"model": ' > m/tokenizer.json
refused "not valid JSON"
echo '{}' > m/tokenizer.json
refused ""
echo '{"model": {"type": "Unigram", "vocab": []}}' > m/tokenizer.json
refused ".*Unigram"
echo '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a c"]}}' > m/tokenizer.json
refused ""
echo '{"model": {"type": "BPE", "vocab": {"a": -7}, "merges": []}}' > m/tokenizer.json
refused ""

mlx_mamba generate --model m --tokens 1,2 --max-tokens 3 --temperature 0 --json > out 2> err
json out "d[0]['text'] == ''"
expect_line 'mlx-mamba: warning: going on without a tokenizer.*m/tokenizer.json.*' err
