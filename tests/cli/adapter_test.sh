# An adapter acts in generate and score, and folded into a model it acts the same.
. "$(dirname "$0")/common.sh"

golden=$MAMBA_SOURCE_DIR/tests/golden/lora
mkdir models
tiny_model models/base  # the name that the golden adapters give
cp -r "$golden/all_rslora" adapter
cp -r "$golden/regex" torch

# One number for each of two sets of logits: their largest difference.
difference() {
  python3 -c "
import array, json, struct, sys
def logits(path):
    data = open(path, 'rb').read()
    n = struct.unpack('<Q', data[:8])[0]
    begin, end = json.loads(data[8 : 8 + n])['logits']['data_offsets']
    return array.array('f', data[8 + n + begin : 8 + n + end])
a, b = logits(sys.argv[1]), logits(sys.argv[2])
assert len(a) == len(b) > 0
print(max(abs(x - y) for x, y in zip(a, b)))
" "$1" "$2"
}
expect_close() {
  python3 -c "import sys; sys.exit(not float(sys.argv[1]) < 2e-4)" "$(difference "$1" "$2")" || fail "$1 and $2 differ"
}
expect_far() {
  python3 -c "import sys; sys.exit(not float(sys.argv[1]) > 0.05)" "$(difference "$1" "$2")" || fail "$1 is $2"
}

ids=1,2,3,4,5,6,7,8,9,10,11,12,13
mlx_mamba score --model models/base --tokens $ids --logits base > out
for adapter in adapter torch; do
  mlx_mamba score --adapter $adapter --tokens $ids --logits $adapter.logits > out 2> err  # the base is found by its name
  expect_far $adapter.logits base
  mlx_mamba score --model models/base --adapter ./$adapter --tokens $ids --logits again > out
  expect_same $adapter.logits again

  mlx_mamba merge --adapter $adapter --out $adapter.merged > out 2> err
  [ ! -s out ] || fail "printed to stdout: $(cat out)"
  mlx_mamba score --model $adapter.merged --tokens $ids --logits merged > out
  expect_close merged $adapter.logits

  mlx_mamba generate --adapter $adapter --tokens 1,2,3 --temperature 0 --max-tokens 30 --ignore-eos > a
  mlx_mamba generate --model $adapter.merged --tokens 1,2,3 --temperature 0 --max-tokens 30 --ignore-eos > b
  expect_same a b
done
mlx_mamba merge --model models/base --adapter adapter --out half --dtype bfloat16 2> err
mlx_mamba info --model half --json > i
json i "d[0]['dtype'] == 'bfloat16'"
mlx_mamba score --model models/base --dtype bfloat16 --adapter adapter --tokens $ids --logits narrow > out
expect_far narrow base

# The shipped model's tokenizer comes along.
mlx_mamba info --json > i
shipped=$(python3 -c "import json; print(json.load(open('i'))['directory'])")
python3 - adapter_config.json <<'END'
import json, sys
json.dump({"peft_type": "LORA", "r": 1, "target_modules": ["none"]}, open(sys.argv[1], "w"))
END
mkdir other && mv adapter_config.json other
expect_error 1 "\"none\" is no layer of this model" generate --model "$shipped" --adapter other --prompt x
expect_error 2 "does not say which model it was made for: give --model" score --adapter other --tokens 1,2

# What is wrong is said.
expect_error 1 "must be (" score --model "$shipped" --adapter adapter --tokens 1,2
expect_error 1 "there is no such folder" score --adapter ./absent --tokens 1,2
expect_error 1 "holds no adapter: adapter_config.json is missing" score --adapter models --tokens 1,2
expect_error 2 "is a file" score --adapter i --tokens 1,2
expect_error 2 "must not be empty" score --adapter "" --tokens 1,2
rm adapter/adapter_model.safetensors
expect_error 1 "holds no weights; looked for" score --adapter adapter --tokens 1,2
expect_error 2 "\-\-out is missing" merge --adapter torch
expect_error 2 "\-\-adapter is missing" merge --model models/base --out x
expect_error 2 "is the model itself" merge --adapter torch --out models/base
expect_error 2 "is the adapter itself" merge --adapter torch --out torch
mv models moved
expect_error 1 "models/base" score --adapter torch --tokens 1,2
sed 's/"use_dora": false/"use_dora": true/' torch/adapter_config.json > c && mv c torch/adapter_config.json
expect_error 1 "field \"use_dora\" is true, which is not supported" score --model moved/base --adapter torch --tokens 1,2
[ ! -e x ] || fail "a folder was made"
