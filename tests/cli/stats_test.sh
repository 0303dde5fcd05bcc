# --stats: four lines on standard error in a form that programs read; standard output has the text alone.
. "$(dirname "$0")/common.sh"

mlx_mamba generate --prompt "ROMEO:" --temperature 0 --max-tokens 20 --ignore-eos > plain
mlx_mamba generate --prompt "ROMEO:" --temperature 0 --max-tokens 20 --ignore-eos --stats --seed 3 > out 2> err
expect_same plain out
expect_line 'load: [0-9]*\.[0-9][0-9] s' err
n=$(mlx_mamba tokenize --text "ROMEO:" --json | python3 -c "import json, sys; print(len(json.load(sys.stdin)))")
expect_line "prompt: $n tokens, [0-9]*\.[0-9] tokens/s" err
expect_line 'generation: 20 tokens, [0-9]*\.[0-9] tokens/s' err
expect_line 'peak memory: [1-9][0-9]* MB' err
expect_line 'seed: 3' err
[ "$(wc -l < err)" -eq 5 ] || fail "more than the five lines: $(cat err)"
