# Fine-tuning: an adapter that generate, score and merge take, whole models, and the loss on answers alone.
. "$(dirname "$0")/common.sh"

printf '{"prompt":"Q: who?\\n","completion":"A: me."}\n{"prompt":"Q: where?\\n","completion":"A: here."}\n' > qa.jsonl
common="--data qa.jsonl --seq-len 48 --warmup 0 --schedule constant"

mlx_mamba finetune $common --lora-rank 4 --lr 0.01 --steps 25 --weight-decay 0 --out adapted > out 2> err || fail "$(cat err)"
json adapted/metrics.jsonl "d[-1]['loss'] < 0.3 * d[0]['loss']"
ls adapted/adapter > out
expect_line adapter_config.json out
expect_line adapter_model.safetensors out
[ ! -e adapted/last/model.safetensors ] || fail "a checkpoint of an adapter holds the whole model"
mlx_mamba generate --adapter adapted/adapter --prompt "Q: where?
" --temperature 0 --max-tokens 12 > with
expect_line 'A: here\.' with
mlx_mamba merge --adapter adapted/adapter --out merged 2> err || fail "$(cat err)"
mlx_mamba generate --model merged --prompt "Q: where?
" --temperature 0 --max-tokens 12 > out
expect_same with out

# Resumed in the middle it is the same adapter.
mlx_mamba finetune $common --lora-rank 2 --steps 4 --out straight > out 2> err || fail "$(cat err)"
mlx_mamba finetune $common --lora-rank 2 --steps 2 --out halves > out 2> err || fail "$(cat err)"
mlx_mamba finetune --out halves --resume --steps 4 > out 2> err || fail "$(cat err)"
expect_same straight/adapter/adapter_model.safetensors halves/adapter/adapter_model.safetensors

# So it is with averaged weights.
mlx_mamba finetune $common --lora-rank 2 --average 0.9 --steps 4 --out straight_mean > out 2> err || fail "$(cat err)"
mlx_mamba finetune $common --lora-rank 2 --average 0.9 --steps 2 --out halves_mean > out 2> err || fail "$(cat err)"
mlx_mamba finetune --out halves_mean --resume --steps 4 > out 2> err || fail "$(cat err)"
expect_same straight_mean/adapter/adapter_model.safetensors halves_mean/adapter/adapter_model.safetensors
if cmp -s straight/adapter/adapter_model.safetensors straight_mean/adapter/adapter_model.safetensors; then
  fail "the adapter that was saved is not the average"
fi

# A run that diverges leaves the adapter of its last good checkpoint.
got=0
mlx_mamba finetune --data qa.jsonl --seq-len 48 --schedule constant --warmup 40 --lora-rank 2 --lr 1000 --steps 40 \
  --save-every 1 --keep 1 --out apart > out 2> err || got=$?
[ "$got" -eq 1 ] || fail "exit code $got, not 1: $(cat err)"
grep -q 'the checkpoint of step 1 is kept' err || fail "$(cat err)"
expect_same apart/last/adapter_model.safetensors apart/adapter/adapter_model.safetensors

# One target alone acts.
for target in in_proj x_proj dt_proj out_proj; do
  mlx_mamba finetune $common --lora-rank 2 --lora-targets $target --lr 0.01 --steps 6 --out "$target" > out 2> err ||
    fail "$(cat err)"
  json "$target/metrics.jsonl" "d[-1]['loss'] < 0.95 * d[0]['loss']"
done

# All weights.
mlx_mamba finetune $common --lr 0.002 --steps 12 --dtype bfloat16 --out whole > out 2> err || fail "$(cat err)"
json whole/metrics.jsonl "d[-1]['loss'] < 0.3 * d[0]['loss']"
mlx_mamba score --model whole/last --text "A: me." > out || fail "the checkpoint does not open"

# A model without a tokenizer is given one.
mkdir bare
for file in config.json model.safetensors; do ln "whole/last/$file" bare/ 2> err || cp "whole/last/$file" bare/; done
if mlx_mamba finetune --model bare $common --steps 1 --out bare_run > out 2> err; then fail "no tokenizer"; fi
grep -q 'text needs a tokenizer' err || fail "message: $(cat err)"
for lora in '' '--lora-rank 2'; do
  rm -rf bare_run
  mlx_mamba finetune --model bare --tokenizer "whole/last" $common $lora --steps 1 \
    --out bare_run > out 2> err || fail "$(cat err)"
  [ -e bare_run/tokenizer/tokenizer.json ] || fail "the tokenizer was not kept"
  mlx_mamba finetune --out bare_run --resume --steps 2 > out 2> err || fail "$(cat err)"
done
expect_error 2 '--tokenizer none: there is no such file' finetune $common --tokenizer none --out x

expect_error 2 'go with --lora-rank' finetune $common --lora-alpha 4 --out x
expect_error 2 'conv1d' finetune $common --lora-rank 2 --lora-targets conv1d --out x
expect_error 2 'leave --model' finetune --out whole --resume --model somewhere
[ ! -e x ] || fail "a refused run left a folder"
