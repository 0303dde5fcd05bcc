# Ids that are none, or outside the vocabulary: exit code 2, before any work.
. "$(dirname "$0")/common.sh"

tiny_model m
vocab=$(mlx_mamba info --model m --json | python3 -c "import json, sys; print(json.load(sys.stdin)['vocab_size'])")
expect_error 2 "$vocab" generate --model m --tokens "1,$vocab"
expect_error 2 "$vocab" score --model m --tokens "1,$vocab"
mlx_mamba generate --model m --tokens "1,$((vocab - 1))" --max-tokens 1 > out
printf '{"tokens": [1]}\n{"tokens": [%s]}\n' "$vocab" > batch.jsonl
expect_error 2 "$vocab" generate --model m --batch-file batch.jsonl
for ids in x 1,2,x -1 1.5 1,,2 ,1 1, 99999999999 "1 2" 0x10; do
  expect_error 2 "tokens must be token ids separated by commas" generate --model m --tokens "$ids"
done
