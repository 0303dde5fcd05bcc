# The scripts parse in their shells and offer what the program has.
. "$(dirname "$0")/common.sh"

for shell in bash zsh fish; do
  mlx_mamba completion $shell > script.$shell
  if command -v $shell > /dev/null; then
    $shell -n script.$shell || fail "$shell does not parse its script"
  fi
  for word in generate score convert tokenize info bench 130m completion repetition-penalty text-file decode bfloat16; do
    grep -q -e "$word" script.$shell || fail "$shell: no $word"
  done
done

command -v bash > /dev/null || skip "bash is not installed"
cat > ask.bash <<'TEXT'
source ./script.bash
compopt() { :; }
ask() {
  COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
  _mlx_mamba
  echo "${COMPREPLY[*]}"
}
touch story.txt; mkdir models
ask mlx-mamba s
ask mlx-mamba generate --top
ask mlx-mamba generate --dtype b
ask mlx-mamba generate --prompt-file st
ask mlx-mamba generate --model mo
ask mlx-mamba generate --max-tokens ""
ask mlx-mamba completion z
ask mlx-mamba help conv
TEXT
bash ask.bash > got
cat > expected <<'TEXT'
score
--top-k --top-p
bfloat16
story.txt
models

zsh
convert
TEXT
expect_same got expected
