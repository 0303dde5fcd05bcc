# What was saved goes on as if it had never stopped.
. "$(dirname "$0")/common.sh"

greedy="--temperature 0 --ignore-eos"
mlx_mamba generate --prompt "ROMEO:" $greedy --max-tokens 40 --json > whole
mlx_mamba generate --prompt "ROMEO:" $greedy --max-tokens 15 --json --save-state state > first
mlx_mamba generate --load-state state $greedy --max-tokens 25 --json > second
cat whole first second > all
json all "d[0]['tokens'] == d[1]['tokens'] + d[2]['tokens'] and d[2]['prompt_tokens'] == []"
json all "max(abs(a - b) for a, b in zip(d[0]['logprobs'], d[1]['logprobs'] + d[2]['logprobs'])) < 1e-4"

# Going on twice from one file gives the same, the repetition penalty included.
mlx_mamba generate --load-state state $greedy --max-tokens 25 --json > again
expect_same second again
mlx_mamba generate --prompt "ROMEO:" $greedy --repetition-penalty 1.3 --max-tokens 24 --json > whole
mlx_mamba generate --prompt "ROMEO:" $greedy --repetition-penalty 1.3 --max-tokens 9 --json --save-state state > first
mlx_mamba generate --load-state state $greedy --repetition-penalty 1.3 --max-tokens 15 --json > second
cat whole first second > all
json all "d[0]['tokens'] == d[1]['tokens'] + d[2]['tokens']"

# A prompt read in pieces, some longer than a chunk, is one prompt.
python3 -c "print(','.join(str(i * 37 % 200 + 1) for i in range(1300)), end='')" > ids
mlx_mamba generate --tokens "$(cat ids)" $greedy --max-tokens 12 --json > whole
mlx_mamba generate --tokens "$(cut -d, -f1 ids)" --max-tokens 0 --save-state state > out
[ "$(cat out)" = "" ] || fail "text where none was asked for: $(cat out)"
mlx_mamba generate --load-state state --tokens "$(cut -d, -f2-8 ids)" --max-tokens 0 --save-state state > out
mlx_mamba generate --load-state state --tokens "$(cut -d, -f9-700 ids)" --max-tokens 0 --save-state state > out
mlx_mamba generate --load-state state --tokens "$(cut -d, -f701- ids)" $greedy --max-tokens 12 --json > pieces
cat whole pieces > all
json all "d[0]['tokens'] == d[1]['tokens']"
json all "max(abs(a - b) for a, b in zip(d[0]['logprobs'], d[1]['logprobs'])) < 1e-3"

printf 'a\nb\n' > batch
expect_error 2 "one prompt" generate --batch-file batch --save-state state
expect_error 2 "one prompt" generate --batch-file batch --load-state state
expect_error 1 "nowhere: cannot be read" generate --load-state nowhere
expect_error 1 "no/such/folder/state: cannot be written" generate --prompt a --save-state no/such/folder/state
mkdir folder
expect_error 1 "folder: cannot be written: it is a folder" generate --prompt a --save-state folder
tiny_model tiny
expect_error 1 "another model" generate --model tiny --load-state state
expect_error 1 "no saved state" generate --load-state tiny/model.safetensors
head -c 200 state > cut
expect_error 1 "cut: " generate --load-state cut
head -c 2000 state > cut
expect_error 1 "cut: " generate --load-state cut
