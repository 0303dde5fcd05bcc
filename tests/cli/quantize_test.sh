# Weights in 8 and 4 bits: the command's report and files, on the fly, and what is refused.
. "$(dirname "$0")/common.sh"

printf 'ROMEO:\nBut soft, what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n' > text
prompt() {
  mlx_mamba generate "$@" --prompt "ROMEO:" --temperature 0 --max-tokens 20 --json
}

for bits in 8 4; do
  mlx_mamba quantize --bits $bits --out q$bits --text-file text --json > report 2> err
  [ "$(wc -l < report)" -eq 1 ] || fail "not one line: $(cat report)"
  json report "d[0]['bits'] == $bits and d[0]['group_size'] == 64 and d[0]['text_tokens'] > 20"
  json report "abs(d[0]['perplexity_after'] / d[0]['perplexity_before'] - 1 - d[0]['perplexity_change']) < 1e-9"
  json report "abs(d[0]['perplexity_change']) < {8: 0.02, 4: 0.2}[$bits]"
  json report "all(m['quantized'] == (not m['name'].endswith('dt_proj')) for m in d[0]['matrices'])"
  json report "all(0 < m['relative_error'] < {8: 0.01, 4: 0.15}[$bits] for m in d[0]['matrices'] if m['quantized'])"
  json report "all('12 columns are no multiple of 64' in m['reason'] for m in d[0]['matrices'] if not m['quantized'])"
  json report "d[0]['bytes_after'] < d[0]['bytes_before'] * {8: 0.31, 4: 0.19}[$bits]"
  for file in config.json generation_config.json model.safetensors tokenizer.json; do
    [ -s q$bits/$file ] || fail "$file is missing: $(ls q$bits)"
  done
  python3 -c "
import json
c = json.load(open('q$bits/config.json'))
assert c['quantization'] == c['quantization_config'] == {'bits': $bits, 'group_size': 64, 'mode': 'affine'}, c
" || fail "config.json"

  # The file computes what quantising on the fly does.
  prompt --model q$bits > a
  prompt --quantize $bits > b
  expect_same a b
  mlx_mamba score --model q$bits --text-file text --json > a
  mlx_mamba score --quantize $bits --text-file text --json > b
  expect_same a b
  prompt --model q$bits --dtype bfloat16 > text16

  mlx_mamba info --model q$bits --json > i
  json i "d[0]['bits'] == $bits and d[0]['group_size'] == 64 and d[0]['dtype'] == 'float32'"
  # A copy stays quantised; with --dtype it is floats again.
  mlx_mamba convert --model q$bits --out copy$bits 2> err
  expect_same q$bits/model.safetensors copy$bits/model.safetensors
  mlx_mamba convert --model q$bits --dtype float32 --out floats$bits 2> err
  mlx_mamba info --model floats$bits --json > i
  json i "d[0]['bits'] is None and d[0]['dtype'] == 'float32'"
  prompt --model floats$bits > a
  prompt --model q$bits > b
  python3 -c "
import json
a, b = json.load(open('a')), json.load(open('b'))
assert a['tokens'] == b['tokens'], (a, b)
" || fail "the dequantised model writes another text"
done
mlx_mamba info --json > i
json i "d[0]['bits'] is None and d[0]['group_size'] is None"

mlx_mamba quantize --bits 4 --group-size 32 --keep lm_head,layers.0.mixer.in_proj --out kept > lines 2> err
expect_line "backbone.embeddings .* float: kept" lines
expect_line "backbone.layers.0.mixer.in_proj .* float: kept" lines
grep -q "^backbone.layers.1.mixer.in_proj  *768 x 192  *0.0[0-9]*  *0.[0-9]*$" lines || fail "$(cat lines)"
grep -q "in groups of 32; " lines || fail "$(cat lines)"
mlx_mamba generate --quantize 8 --prompt x --max-tokens 1 --stats > out 2> err
grep -q "^quantised: 25 of 33 matrices to 8 bits in groups of 64; dt_proj stays float" err || fail "$(cat err)"

# What makes no sense is said.
expect_error 2 "\-\-bits is missing: 8 or 4" quantize --out x
expect_error 2 "\-\-out is missing" quantize --bits 8
expect_error 2 "\-\-bits" quantize --bits 3 --out x
expect_error 2 "\-\-group-size" quantize --bits 4 --group-size 48 --out x
expect_error 2 "\"mlp\" is no matrix of this model" quantize --bits 4 --keep mlp --out x
expect_error 2 "quantised already" quantize --model q8 --bits 4 --out x
expect_error 2 "quantised already" generate --model q8 --quantize 4 --prompt x
expect_error 2 "\-\-group-size goes with --quantize" generate --group-size 32 --prompt x
expect_error 2 "is the model itself" quantize --model floats8 --bits 8 --out floats8
tiny_model tiny  # 20 and 40 columns
expect_error 2 "nothing to quantise: .*20 columns are no multiple of 64" quantize --model tiny --bits 8 --out x
[ ! -e x ] || fail "a folder was made"

# Nor can a quantised model be trained.
yes "To be, or not to be, that is the question." | head -n 200 > data.txt
expect_error 2 "is quantised and cannot be trained" finetune --model q8 --data data.txt --out run
expect_error 2 "is quantised and cannot be trained" finetune --model q8 --data data.txt --lora-rank 2 --out run
expect_error 2 "is quantised and cannot be trained" train --init q8 --data data.txt --out run
[ ! -e run ] || fail "a run was begun"

# An adapter acts on a quantised model as on any, and is merged into floats.
mlx_mamba finetune --data data.txt --lora-rank 2 --steps 2 --batch-size 1 --seq-len 16 --lr 0.1 --out lora > out 2> err
mlx_mamba score --model q8 --adapter lora/adapter --text-file text --json > a
mlx_mamba score --model q8 --text-file text --json > b
mlx_mamba score --adapter lora/adapter --text-file text --json > c
python3 -c "
import json
a, b, c = (json.load(open(f))['mean_loss'] for f in 'abc')
assert abs(a - c) < 0.02 < abs(a - b), (a, b, c)
" || fail "the adapter does not act"
expect_error 2 "the model is quantised: name the dtype" merge --model q8 --adapter lora/adapter --out x
mlx_mamba merge --model q8 --adapter lora/adapter --dtype float32 --out merged 2> err
mlx_mamba score --model merged --text-file text --json > b
python3 -c "
import json
a, b = (json.load(open(f))['mean_loss'] for f in 'ab')
assert abs(a - b) < 1e-3, (a, b)
" || fail "the merged model is another"

# Configurations and files that do not fit.
# with FILE-EXPRESSION: m is q8, its configuration c changed.
with() {
  rm -rf m
  cp -r q8 m
  python3 -c "
import json
c = json.load(open('m/config.json'))
q = c['quantization']
$1
json.dump(c, open('m/config.json', 'w'))
"
}
refused() {
  expect_error 1 "$1" generate --model m --tokens 1,2
}
with "q['bits'] = 3"
refused "m/config.json: field \"quantization.bits\" must be one of 4, 8 but is 3"
with "q['group_size'] = 48"
refused "m/config.json: field \"quantization.group_size\" must be one of 32, 64, 128 but is 48"
with "del q['bits']"
refused "m/config.json: field \"quantization.bits\" is missing"
with "q['mode'] = 'mxfp4'"
refused "m/config.json: field \"quantization.mode\" must be \"affine\""
with "c['quantization'] = 8"
refused "m/config.json: field \"quantization\" must be an object"
with "del c['quantization']; c['quantization_config'] = {'quant_method': 'gptq', 'bits': 4}"
refused "quantization_config.quant_method\" is \"gptq\", which is not supported"
with "q['backbone.layers.0.mixer.in_proj'] = {'bits': 5, 'group_size': 64}"
refused "\"quantization.backbone.layers.0.mixer.in_proj.bits\" must be one of 4, 8 but is 5"
with "del c['quantization']; del c['quantization_config']"
refused "m/model.safetensors: holds backbone.embeddings.scales, so its weights are quantised, but config.json has no field"
with "q['backbone.layers.0.mixer.in_proj'] = {'bits': 4, 'group_size': 64}"
refused "m/model.safetensors: backbone.layers.0.mixer.in_proj.weight must be (768, 24) for this configuration but is (768, 48)"
with "q['backbone.layers.0.mixer.dt_proj'] = True"
refused "backbone.layers.0.mixer.dt_proj is quantised to 8 bits in groups of 64, which is not supported for 12 columns"
with "q['backbone.layers.0.mixer.in_proj'] = False"
refused "backbone.layers.0.mixer.in_proj.weight must be (768, 192) for this configuration but is (768, 48)"
with "del c['quantization']"
prompt --model m > b  # quantization_config alone is enough
prompt --model q8 > a
expect_same a b
# edit CODE: CODE changes the header `h` of m/model.safetensors.
edit() {
  with "pass"
  python3 -c "
import json, struct
raw = open('m/model.safetensors', 'rb').read()
n, = struct.unpack('<Q', raw[:8])
h, data = json.loads(raw[8:8 + n]), raw[8 + n:]
name = 'backbone.layers.0.mixer.in_proj'
$1
text = json.dumps(h).encode()
open('m/model.safetensors', 'wb').write(struct.pack('<Q', len(text)) + text + data)
"
}
edit "h['other'] = h.pop(name + '.biases')"
refused "m/model.safetensors: lacks backbone.layers.0.mixer.in_proj.biases, which the configuration asks for"
edit "h[name + '.weight']['dtype'] = 'F32'"
refused "in_proj.weight must be uint32, the codes of quantised weights, but is float32"
edit "h[name + '.scales']['dtype'] = 'BF16'"
refused "in_proj.scales and backbone.layers.0.mixer.in_proj.biases must have the same dtype"
edit "h[name + '.scales']['shape'] = [384, 6]; h[name + '.biases']['shape'] = [384, 6]"
refused "in_proj"
