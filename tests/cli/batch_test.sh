# Prompts of a batch get, byte for byte, what each gets alone, in their order.
. "$(dirname "$0")/common.sh"

cat > prompts.txt <<'TEXT'
ROMEO:
First Citizen: Before we proceed any further, hear me speak.
A
	 tabs, "quotes" and \backslashes
KING RICHARD III
TEXT
for sampling in "--temperature 0" "--temperature 1 --top-k 40 --seed 5"; do
  mlx_mamba generate --batch-file prompts.txt --max-tokens 24 $sampling --json > batch
  : > alone
  while IFS= read -r prompt; do
    mlx_mamba generate --prompt "$prompt" --max-tokens 24 $sampling --json >> alone
  done < prompts.txt
  expect_same batch alone
  json batch "len(d) == 5"
done

# JSON lines: strings, and objects with text or ids.
ids=$(mlx_mamba tokenize --text "A")
cat > prompts.jsonl <<TEXT
"ROMEO:"
{"prompt": "First Citizen: Before we proceed any further, hear me speak."}
{"tokens": [$ids]}
TEXT
mlx_mamba generate --batch-file prompts.jsonl --max-tokens 24 --temperature 1 --top-k 40 --seed 5 --json > lines
head -n 3 alone > first
expect_same lines first

# Plain text: a header above each, none for a single prompt.
mlx_mamba generate --batch-file prompts.jsonl --max-tokens 8 --temperature 0 > plain
[ "$(grep -c '^==> prompt [123] <==$' plain)" -eq 3 ] || fail "headers: $(cat plain)"
: > alone
n=0
for prompt in "ROMEO:" "First Citizen: Before we proceed any further, hear me speak." "A"; do
  n=$((n + 1))
  echo "==> prompt $n <==" >> alone
  mlx_mamba generate --prompt "$prompt" --max-tokens 8 --temperature 0 >> alone
done
expect_same plain alone
printf 'ROMEO:' > one.txt
mlx_mamba generate --batch-file one.txt --max-tokens 8 --temperature 0 > plain
mlx_mamba generate --prompt "ROMEO:" --max-tokens 8 --temperature 0 > alone
expect_same plain alone

# More prompts than run at a time.
i=0
while [ $i -lt 150 ]; do echo "Line $i"; i=$((i + 1)); done > many.txt
mlx_mamba generate --batch-file many.txt --max-tokens 2 --temperature 0 --json > many
json many "len(d) == 150"
mlx_mamba generate --prompt "Line 149" --max-tokens 2 --temperature 0 --json > alone
tail -n 1 many > last
expect_same last alone

printf 'one\n\nthree\n' > gap.txt
expect_error 2 "gap.txt, line 2: is empty" generate --batch-file gap.txt
: > empty.txt
expect_error 2 "empty.txt: holds no prompts" generate --batch-file empty.txt
echo '{"prompt": 3}' > bad.jsonl
expect_error 2 "bad.jsonl, line 1: must be" generate --batch-file bad.jsonl
printf '"a"\n{"prompt"\n' > bad.jsonl
expect_error 1 "bad.jsonl: not valid JSON" generate --batch-file bad.jsonl
echo '{"tokens": [1, -5]}' > bad.jsonl
expect_error 2 "bad.jsonl, line 1: .*ids from 0" generate --batch-file bad.jsonl
expect_error 1 "no-such-file: cannot be read" generate --batch-file no-such-file
