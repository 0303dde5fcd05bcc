# Wrong usage: one line that says what to do, and exit code 2.
. "$(dirname "$0")/common.sh"

hint='(see mlx-mamba generate --help)$'
expect_error 2 "no option \"--tempature\"; did you mean --temperature? $hint" generate --tempature 1
expect_error 2 "no option \"--stops\"; did you mean --stop? $hint" generate --stops=a
expect_error 2 "no option \"-x\"" generate -x
expect_error 2 "unexpected argument \"hello\" $hint" generate hello
expect_error 2 "temperature needs a value $hint" generate --temperature
expect_error 2 "temperature must be a number but is \"warm\" $hint" generate --temperature warm
expect_error 2 "temperature must be a number but is \"\" $hint" generate --temperature=
expect_error 2 "temperature must be a number but is \"nan\"" generate --temperature nan
expect_error 2 "temperature must be .*0 or more but is -1" generate --temperature -1
expect_error 2 "top-p must be .*but is 0" generate --top-p 0
expect_error 2 "top-p must be .*but is 1.5" generate --top-p 1.5
expect_error 2 "min-p must be .*but is -0.1" generate --min-p -0.1
expect_error 2 "repetition-penalty must be .*but is 0" generate --repetition-penalty 0
expect_error 2 "top-k must be an integer from 0 to [0-9]* but is \"1.5\"" generate --top-k 1.5
expect_error 2 "max-tokens must be an integer from 0 .*\"-3\"" generate --max-tokens -3
expect_error 2 "max-tokens must be an integer from 0 .*\"99999999999\"" generate --max-tokens 99999999999
expect_error 2 "seed must be an integer" generate --seed abc
expect_error 2 "threads must be an integer from 1" generate --threads 0
expect_error 2 "dtype must be float32, bfloat16 or float16 but is \"int8\"" generate --dtype int8
expect_error 2 "device must be cpu or gpu but is \"tpu\"" generate --device tpu
expect_error 2 "json takes no value" generate --json=yes
expect_error 2 "prompt was given 2 times" generate --prompt a --prompt b
expect_error 2 "model must not be empty" generate --model ""
expect_error 2 "give one of --text, --text-file and --tokens" score
expect_error 2 "give one of --text, --text-file and --decode" tokenize
expect_error 2 "give one of --model and --tokenizer" tokenize --model a --tokenizer b --text c
expect_error 2 "out is missing" convert
expect_error 2 "name the shell" completion
expect_error 2 "SHELL must be bash, zsh or fish but is \"tcsh\"" completion tcsh

expect_error 2 "no command \"genrate\"; did you mean generate?" genrate
expect_error 2 "no command \"\"" ""
expect_error 2 "\"--prompt\": a command goes first" --prompt x
expect_error 2 "no command \"scoer\"; did you mean score?" help scoer

# Without a command: the list of commands, on standard error.
code=0
mlx_mamba > out 2> err || code=$?
[ "$code" -eq 2 ] && [ ! -s out ] || fail "exit code $code"
grep -q '^Usage: mlx-mamba COMMAND' err || fail "no list of commands: $(cat err)"
