# A prompt reaches the model byte for byte, from wherever it comes.
. "$(dirname "$0")/common.sh"

ask() {
  mlx_mamba generate --max-tokens 8 --temperature 0 --json "$@"
}
printf 'First line\nsecond "line" with tab\t\n' > prompt.txt
prompt=$(cat prompt.txt; echo x)
prompt=${prompt%x}
ask --prompt "$prompt" > a
ask --prompt-file prompt.txt > b
expect_same a b
ask --prompt-file - < prompt.txt > b
expect_same a b
cat prompt.txt | ask --prompt-file - > b
expect_same a b
json a "len(d[0]['prompt_tokens']) > 3"

# Text that looks like an option, and one that CLI parsers like to take apart.
for text in "--json" "-1" "[a,b]" "{}" "a,b" "--"; do
  ask --prompt "$text" > a
  ask "--prompt=$text" > b
  expect_same a b
  ids=$(mlx_mamba tokenize --text "$text")
  json a "d[0]['prompt_tokens'] == [$ids]"
done

# Ill-formed UTF-8 is replaced, and the output is JSON all the same.
printf 'caf\351 \377\376' > latin.txt
ask --prompt-file latin.txt > a
json a "len(d) == 1"
printf 'caf\357\277\275 \357\277\275\357\277\275' > replaced.txt
ask --prompt-file replaced.txt > b
expect_same a b

# Without a prompt the text begins from the model's start token.
ask > a
json a "len(d[0]['prompt_tokens']) == 1 and len(d[0]['tokens']) >= 1"

expect_error 2 "prompt: is empty" generate --prompt ""
expect_error 2 "prompt: is empty" generate --prompt= --json
expect_error 2 "standard input: is empty" generate --prompt-file -
expect_error 2 "tokens: is empty" generate --tokens ""
expect_error 1 "absent.txt: cannot be read: No such file" generate --prompt-file absent.txt
expect_error 1 "cannot be read: Is a directory" generate --prompt-file .
expect_error 2 "give one of" generate --prompt a --prompt-file prompt.txt
expect_error 2 "give one of" generate --prompt a --tokens 1
