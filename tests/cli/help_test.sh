# Each command explains itself; nothing in the texts is wider than a terminal.
. "$(dirname "$0")/common.sh"

export MLX_MAMBA_ASSETS="$work/none"  # help needs no model
mlx_mamba --help > all
mlx_mamba -h > short
expect_same all short
mlx_mamba help > short
expect_same all short
version=$(mlx_mamba --version)
echo "$version" | grep -q -x 'mlx-mamba [0-9]*\.[0-9]*\.[0-9]* (MLX [0-9.]*)' || fail "version: $version"
for command in generate score convert tokenize info bench completion; do
  grep -q "^  $command " all || fail "$command is not listed"
  mlx_mamba $command --help > text 2> err
  [ ! -s err ] || fail "stderr: $(cat err)"
  grep -q "^Usage: mlx-mamba $command" text || fail "no usage line: $(cat text)"
  grep -q "^Examples" text || fail "no examples: $(cat text)"
  mlx_mamba $command -h > other
  expect_same text other
  mlx_mamba help $command > other
  expect_same text other
  [ "$(mlx_mamba $command --version)" = "$version" ] || fail "$command --version differs"
  sed '/^Examples/,$d' text all | awk 'length > 80 { print; exit 1 }' || fail "a line of $command is too wide"
done
# Help wins over what else is wrong with the line.
mlx_mamba generate --temperature warm --help > text
mlx_mamba generate --help > other
expect_same text other
for option in --model --prompt --prompt-file --tokens --max-tokens --temperature --top-k --top-p --min-p \
    --repetition-penalty --stop --seed --dtype --device --threads --batch-file --save-state --load-state --json --stats \
    --ignore-eos; do
  grep -q "^  $option" other || fail "$option is not explained"
done
for default in 256 0.8 0.95; do
  tr -s ' \n' ' ' < other | grep -q "default: $default)" || fail "no default $default"
done
