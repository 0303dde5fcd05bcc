# Speeds beside the machine's limits, as a table and as JSON.
. "$(dirname "$0")/common.sh"

mlx_mamba bench -p 40 -n 4 --repeat 2 --json > j 2> err
[ ! -s err ] || fail "stderr: $(cat err)"
json j "len(d) == 1 and list(d[0]) == ['model', 'dtype', 'bits', 'threads', 'batch', 'prompt_tokens', 'prompt_tokens_per_second', 'generation_tokens', 'generation_tokens_per_second', 'load_seconds', 'peak_memory_mb', 'prompt_limit_fraction', 'generation_limit_fraction']"
json j "d[0]['dtype'] == 'float32' and d[0]['bits'] == 32 and d[0]['batch'] == 1 and d[0]['model'].endswith('shakespeare')"
json j "d[0]['prompt_tokens'] == 40 and d[0]['generation_tokens'] == 4"
json j "all(d[0][key] > 0 for key in d[0] if key not in ('model', 'dtype'))"
mlx_mamba bench --prompt-tokens 9 -n 3 -b 3 --repeat 1 --threads 1 --dtype bfloat16 --json > j
json j "d[0]['dtype'] == 'bfloat16' and d[0]['bits'] == 16 and d[0]['batch'] == 3 and d[0]['threads'] == 1"

# What is left out is null, in the table it has no line.
mlx_mamba bench -p 0 -n 2 --repeat 1 --json > j
json j "d[0]['prompt_tokens_per_second'] is None and d[0]['prompt_limit_fraction'] is None and d[0]['generation_tokens_per_second'] > 0"
mlx_mamba bench -p 30 -n 2 --repeat 3 > both
grep -q -x 'prompt  *30  *[0-9.]*  ([0-9.]*-[0-9.]*)  *[0-9]* % of [0-9.]* \(GB/s\|GFLOP/s\)' both || fail "no line for the prompt: $(cat both)"
grep -q -x 'generation  *2  *[0-9.]*  ([0-9.]*-[0-9.]*)  *[0-9]* % of [0-9.]* \(GB/s\|GFLOP/s\)' both || fail "no line for generation: $(cat both)"
grep -q -x 'load: [0-9.]* s, peak memory: [0-9]* MB' both || fail "no load and memory: $(cat both)"
mlx_mamba bench -p 30 -n 0 --repeat 1 > prompt
if grep -q '^generation' prompt; then fail "generation was left out: $(cat prompt)"; fi

# A published shape needs neither files nor the network.
MLX_MAMBA_ASSETS="$work/none" mlx_mamba bench --shape 130m --dtype bfloat16 -p 1 -n 1 --repeat 1 --json > j
json j "d[0]['model'] == '130m' and 250 < d[0]['peak_memory_mb'] and d[0]['bits'] == 16"

# Quantised, on the way or in memory.
mlx_mamba bench --quantize 8 -p 5 -n 2 --repeat 1 --json > j 2> /dev/null
json j "d[0]['bits'] == 8 and d[0]['dtype'] == 'float32'"
MLX_MAMBA_ASSETS="$work/none" mlx_mamba bench --shape 130m --quantize 4 --dtype bfloat16 -p 1 -n 1 --repeat 1 --json > j
# Sanitizers remember each piece of memory: 40 MB here.
json j "d[0]['bits'] == 4 and d[0]['dtype'] == 'bfloat16' and 70 < d[0]['peak_memory_mb'] < 73 * 1.15 + ${MAMBA_SANITIZED:+60 +} 100"
expect_error 2 "quantize must be 8 or 4 but is \"3\"" bench --quantize 3
expect_error 2 "group-size goes with --quantize" bench --group-size 32

# A model without a tokenizer will do.
tiny_model tiny
mlx_mamba bench --model tiny -p 5 -n 2 --repeat 1 > /dev/null 2> err
[ ! -s err ] || fail "stderr: $(cat err)"

# The peak is the program's own, not that of a large one that starts it.
python3 -c "
import subprocess, sys
ballast = bytearray(b'x') * (600 << 20)
subprocess.run(sys.argv[1:], check=True)
" "$MLX_MAMBA" bench --model tiny -p 5 -n 2 --repeat 1 --json > j
json j "d[0]['peak_memory_mb'] < 500"

expect_error 2 "give one of --model and --shape" bench --model tiny --shape 130m
expect_error 2 "shape must be 130m, 370m, 790m, 1.4b or 2.8b but is \"7b\"" bench --shape 7b
expect_error 2 "nothing is left to measure" bench -p 0 -n 0
expect_error 2 "^mlx-mamba: --prompt-tokens must be an integer from 0 to [0-9]* but is \"-1\"" bench -p -1
expect_error 2 "generate-tokens must be an integer" bench -n x
expect_error 2 "batch must be an integer from 1" bench -b 0
expect_error 2 "repeat must be an integer from 1" bench --repeat 0
expect_error 2 "dtype must be" bench --shape 130m --dtype int4
expect_error 2 "no option \"-x\"" bench -x 3
expect_error 1 "no such folder" bench --model ./absent
