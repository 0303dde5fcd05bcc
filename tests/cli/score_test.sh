# Log-probabilities agree with the logits, with generate, and with their mean.
. "$(dirname "$0")/common.sh"

text="To be, or not to be: that is the question."
mlx_mamba score --text "$text" --json --logits logits.safetensors > j
ids=$(mlx_mamba tokenize --text "$text")
json j "list(d[0]) == ['tokens', 'logprobs', 'mean_loss', 'perplexity'] and d[0]['tokens'] == [$ids]"
json j "d[0]['logprobs'][0] is None and len(d[0]['logprobs']) == len(d[0]['tokens'])"
json j "abs(sum(d[0]['logprobs'][1:]) / (len(d[0]['tokens']) - 1) + d[0]['mean_loss']) < 1e-9"
json j "abs(2.718281828459045 ** d[0]['mean_loss'] / d[0]['perplexity'] - 1) < 1e-9"
python3 -c "
import array, json, math, struct
d = json.load(open('j'))
f = open('logits.safetensors', 'rb')
n, = struct.unpack('<Q', f.read(8))
head = json.loads(f.read(n))['logits']
assert head['dtype'] == 'F32' and head['shape'][0] == len(d['tokens']), head
rows, vocab = head['shape']
values = array.array('f', f.read())
assert head['data_offsets'] == [0, rows * vocab * 4] and len(values) == rows * vocab
for i in range(1, rows):
    row = values[(i - 1) * vocab : i * vocab]
    top = max(row)
    logprob = row[d['tokens'][i]] - top - math.log(sum(math.exp(x - top) for x in row))
    assert abs(logprob - d['logprobs'][i]) < 1e-4, (i, logprob, d['logprobs'][i])
" || fail "logits and log-probabilities disagree"
[ "$(echo logits.safetensors*)" = logits.safetensors ] || fail "something was left behind: $(ls)"

mlx_mamba score --text "$text" > table
n=$(echo "$ids" | tr ',' '\n' | wc -l)
[ "$(wc -l < table)" -eq $((n + 3)) ] || fail "lines of the table: $(cat table)"
expect_line "tokens: $n" table
expect_line "mean loss: [0-9.]*" table
expect_line "perplexity: [0-9.]*" table
printf '%s' "$text" > text.txt
mlx_mamba score --text-file text.txt --json > b
expect_same j b
mlx_mamba score --text-file - --json < text.txt > b
expect_same j b
mlx_mamba score --tokens "$ids" --json > b
expect_same j b

# What generate says about its own choice.
mlx_mamba generate --prompt "$text" --temperature 0 --max-tokens 1 --json > g
token=$(python3 -c "import json; print(json.load(open('g'))['tokens'][0])")
mlx_mamba score --tokens "$ids,$token" --json > s
cat g s > all
json all "abs(d[0]['logprobs'][0] - d[1]['logprobs'][-1]) < 1e-4"

expect_error 2 "at least two tokens" score --tokens 1
expect_error 2 "text: is empty" score --text ""
expect_error 2 "99999" score --tokens 1,99999
expect_error 1 "no/folder/x: cannot be written" score --tokens 1,2 --logits no/folder/x
expect_error 1 "/dev/null: cannot be written: it is a device" score --tokens 1,2 --logits /dev/null
