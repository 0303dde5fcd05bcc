# Training: the run folder, and a run that was killed, interrupted or resumed equals the one that was not.
. "$(dirname "$0")/common.sh"

cp "$MAMBA_SOURCE_DIR/README.md" text.md
shape="--tokenizer train:300 --d-model 16 --n-layer 1 --seq-len 16 --batch-size 2"
steps="--steps 24 --save-every 3 --eval-every 8 --warmup 2"

# The metrics that do not depend on the clock.
numbers() {
  python3 -c "
import json, sys
for line in open(sys.argv[1]):
    d = json.loads(line)
    print([d.get(k) for k in ('step', 'loss', 'lr', 'grad_norm', 'epoch', 'eval_loss')])
" "$1"
}

mlx_mamba train --data text.md $shape $steps --out whole > out 2> err || fail "$(cat err)"
[ "$(wc -l < whole/metrics.jsonl)" -eq 24 ] || fail "not a line for each step"
json whole/metrics.jsonl "[x['step'] for x in d] == list(range(24)) and all(
    {'loss', 'lr', 'grad_norm', 'tokens_per_second', 'peak_memory_mb'} <= set(x) for x in d)"
json whole/metrics.jsonl "[x['step'] for x in d if 'eval_loss' in x] == [7, 15, 23] and d[23]['eval_loss'] < d[7]['eval_loss']"
grep -q 'step 24/24  loss .* tokens/s' out || fail "no progress: $(cat out)"
[ "$(readlink whole/last)" = checkpoints/step-24 ] || fail "last is $(readlink whole/last)"
[ -e whole/best/model.safetensors ] || fail "no best checkpoint"
grep -q '<svg' whole/report.html || fail "no curves in the report"
if grep -q 'src=\|href=\|@import' whole/report.html; then fail "the report needs other files"; fi
mlx_mamba generate --model whole/last --prompt the --max-tokens 3 > out || fail "the checkpoint does not open"
mlx_mamba score --model whole/best --text "the model" > out || fail "the best checkpoint does not open"

# Killed at any moment, then resumed: the same numbers, and every file whole.
for delay in 0.3 0.5 0.7; do
  rm -rf killed
  "$MLX_MAMBA" train --data text.md $shape $steps --out killed > out 2>&1 &
  pid=$!
  sleep "$delay"
  kill -9 $pid 2> err || true
  wait $pid 2> err || true
  [ -e killed/config.json ] || continue
  for link in killed/last killed/best; do
    [ ! -L $link ] || [ -e $link/trainer.json ] || fail "$link leads nowhere"
  done
  mlx_mamba train --out killed --resume > out 2> err || fail "after a kill: $(cat err)"
  numbers whole/metrics.jsonl > a
  numbers killed/metrics.jsonl > b
  expect_same a b
  expect_same whole/last/model.safetensors killed/last/model.safetensors
done

# Ctrl-C saves and stops. A shell starts background jobs with SIGINT ignored, so Python does it.
code=0
python3 -c "
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
p = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
p.stdout.readline()
p.send_signal(signal.SIGINT)
sys.exit(p.wait(timeout=100))
" "$MLX_MAMBA" train --data text.md $shape --steps 100000 --save-every 100000 --eval-every 100000 --out stopped 2> err ||
  code=$?
[ "$code" -eq 130 ] || fail "exit code $code after Ctrl-C: $(cat err)"
[ -e stopped/last/trainer.json ] || fail "nothing was saved: $(cat err)"
mlx_mamba train --out stopped --resume --steps "$(($(basename "$(readlink stopped/last)" | sed s/step-//) + 2))" > out 2> err ||
  fail "$(cat err)"

# All steps are done: says so, changes nothing.
cp whole/metrics.jsonl before
mlx_mamba train --out whole --resume > out || fail "a finished run"
grep -q 'all 24 steps are done' out || fail "$(cat out)"
expect_same before whole/metrics.jsonl

# Text that is cut in several ways: a share of it, and all at the end, as it is in use.
cut="--bpe-dropout 0.3 --segmentations 3 --eval-fraction 0"
mlx_mamba train --data text.md $shape --steps 4 $cut --out cut > out 2> err || fail "$(cat err)"
setting() {
  python3 -c "import json, sys; print(json.load(open(sys.argv[1]))['settings'][sys.argv[2]])" "$1/config.json" "$2"
}
[ "$(setting cut plain_share) $(setting cut plain_end)" = "0.25 0.15" ] || fail "not the defaults: $(cat cut/config.json)"
mlx_mamba train --data text.md $shape --steps 4 $cut --plain-share 1 --plain-end 0.5 --out plain > out 2> err || fail "$(cat err)"
[ "$(setting plain plain_share) $(setting plain plain_end)" = "1.0 0.5" ] || fail "not what was given: $(cat plain/config.json)"
expect_error 2 '--resume: --plain-share was 0.25 when the run began' train --out cut --resume --steps 9 --plain-share 0.5
expect_error 2 '--plain-share and --plain-end choose among texts' train --data text.md $shape --plain-share 0.5 --out x
expect_error 2 '--plain-share and --plain-end choose among' train --data text.md $shape $cut --no-shuffle --plain-end 1 --out x
expect_error 2 '--plain-end must be a number from 0 to 1' train --data text.md $shape $cut --plain-end 2 --out x

# What cannot be.
expect_error 2 'a run (or a model) is there already' train --data text.md $shape --out whole
expect_error 2 'there is no run to resume' train --out nowhere --resume
expect_error 2 '--resume: --lr was 0.001 when the run began' train --out whole --resume --lr 0.5
expect_error 2 '--resume: --no-shuffle was not given when the run began: leave it out' train --out whole --resume --no-shuffle
expect_error 2 '--resume: --eval-data was not given when the run began' train --out whole --resume --eval-data text.md
expect_error 2 '--resume: --eval-fraction must stay' train --out whole --resume --eval-fraction 0.2
expect_error 2 '--resume: --decay-ratio was 0.2 when the run began and is 0.3 now: leave it as it was' \
  train --out whole --resume --decay-ratio 0.3
expect_error 2 '--resume: --recompute was not given' train --out whole --resume --recompute
expect_error 2 'not of mlx-mamba finetune' finetune --out whole --resume
expect_error 2 '--data is missing' train --out x
expect_error 2 '--out is missing' train --data text.md
expect_error 2 'the vocabulary is not known' train --data text.md --out x
expect_error 2 'no-such-file' train --data no-such-file $shape --out x
expect_error 2 '--lr must be a number from' train --data text.md --lr fast --out x
expect_error 2 '--schedule must be constant, cosine or wsd' train --data text.md --schedule linear --out x
expect_error 2 '--d-model' train --data text.md --init whole/last --d-model 8 --out x
[ ! -e x ] || fail "a refused run left a folder"
echo changed >> text.md
cat text.md text.md > longer && cat longer > text.md
code=0
mlx_mamba train --out whole --resume --steps 30 > out 2> err || code=$?
[ "$code" -eq 1 ] || fail "exit code $code for other data"
grep -q '^mlx-mamba: --resume: the data has changed since the run began' err || fail "message: $(cat err)"
