# Weights that are cut, lie or do not fit: one line, exit code 1.
. "$(dirname "$0")/common.sh"

tiny_model good
fresh() {
  rm -rf m
  cp -r good m
}
# rewrite CODE: CODE changes the header `h` and the bytes `data` of m/model.safetensors.
rewrite() {
  python3 -c "
import json, struct, sys
raw = open('m/model.safetensors', 'rb').read()
n, = struct.unpack('<Q', raw[:8])
h, data = json.loads(raw[8:8 + n]), raw[8 + n:]
name = next(k for k in h if k.endswith('in_proj.weight'))
$1
text = json.dumps(h).encode()
open('m/model.safetensors', 'wb').write(struct.pack('<Q', len(text)) + text + data)
"
}
refused() {
  expect_error 1 "$1" generate --model m --tokens 1,2 --max-tokens 2
}

size=$(wc -c < good/model.safetensors)
for cut in 0 7 8 100 $((size / 2)) $((size - 1)); do
  fresh
  head -c "$cut" good/model.safetensors > m/model.safetensors
  refused "m/model.safetensors: "
done
fresh
printf '\377\377\377\377\377\377\377\177' | dd of=m/model.safetensors conv=notrunc 2> dd.log
refused "m/model.safetensors: "
fresh
printf '\377\377\377\005\000\000\000\000' | dd of=m/model.safetensors conv=notrunc 2> dd.log
refused "m/model.safetensors: "
fresh
printf 'x' | dd of=m/model.safetensors bs=1 seek=9 conv=notrunc 2> dd.log
refused "m/model.safetensors: "

fresh
rewrite "h[name]['data_offsets'][0] -= 4"  # overlaps its neighbour
refused "m/model.safetensors: "
fresh
rewrite "h[name]['data_offsets'][1] = 1 << 62"
refused "m/model.safetensors: "
fresh
rewrite "h[name]['data_offsets'] = [-4, 4]"
refused "m/model.safetensors: "
fresh
rewrite "h[name]['shape'] = h[name]['shape'][::-1]"
refused "in_proj.weight"
fresh
rewrite "h[name]['shape'] = [1 << 33, 1 << 33]"
refused "m/model.safetensors: "
fresh
rewrite "h[name]['dtype'] = 'I32'"
refused "in_proj.weight"
fresh
rewrite "h[name]['dtype'] = 'F99'"
refused "m/model.safetensors: .*F99"
fresh
rewrite "h[name + 'x'] = h.pop(name)"
refused "in_proj.weight"
fresh
rm m/model.safetensors
refused "m"
fresh
rm m/config.json
refused "config.json"

# Pickles that would run code, from a folder in PyTorch's layout.
for file in "$MAMBA_SOURCE_DIR"/tests/golden/io/refused_system_protocol*.pt \
    "$MAMBA_SOURCE_DIR"/tests/golden/io/refused_eval.pt; do
  fresh
  rm m/model.safetensors
  cp "$file" m/pytorch_model.bin
  refused "m/pytorch_model.bin: "
done
fresh
rm m/model.safetensors
echo "this is no zip" > m/pytorch_model.bin
refused "m/pytorch_model.bin: "

# The other commands say the same.
fresh
head -c 100 good/model.safetensors > m/model.safetensors
expect_error 1 "m/model.safetensors: " info --model m
expect_error 1 "m/model.safetensors: " score --model m --tokens 1,2
expect_error 1 "m/model.safetensors: " convert --model m --out x
[ ! -e x/config.json ] || fail "half a model was written"
