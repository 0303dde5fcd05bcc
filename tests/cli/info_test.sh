# What is known of a model, as lines and as JSON.
. "$(dirname "$0")/common.sh"

mlx_mamba info --json > j
json j "d[0]['parameters'] > 1000000 and d[0]['dtype'] == 'float32' and d[0]['model_type'] == 'mamba'"
json j "d[0]['state_bytes_per_sequence'] == d[0]['n_layer'] * d[0]['d_inner'] * (d[0]['d_state'] + d[0]['d_conv'] - 1) * 4"
json j "sum(f['bytes'] for f in d[0]['files'] if f['path'].endswith('.safetensors')) >= d[0]['parameters'] * 4"
json j "all(__import__('os').path.getsize(f['path']) == f['bytes'] for f in d[0]['files'])"
json j "d[0]['tokenizer'].endswith('tokenizer.json') and d[0]['tokenizer_vocab_size'] > 0"
mlx_mamba info > lines
for field in directory parameters dtype 'd model' 'n layer' 'vocab size' 'state bytes per sequence' tokenizer files; do
  grep -q "^$field:" lines || fail "no line for $field: $(cat lines)"
done
tiny_model tiny
mlx_mamba info --model tiny --json > j
json j "d[0]['tokenizer'] is None and d[0]['tokenizer_vocab_size'] is None and d[0]['repository'] is None"
json j "d[0]['directory'] == 'tiny' and len(d[0]['files']) == 2"

# The shipped model, when it is not where it should be.
mkdir empty
MLX_MAMBA_ASSETS="$work/empty" expect_error 1 "ships with the program is not there .*--model" info
mkdir -p assets/shakespeare
cp tiny/* assets/shakespeare
MLX_MAMBA_ASSETS="$work/assets" mlx_mamba info --json > other
json other "d[0]['name'].endswith('assets/shakespeare')"
