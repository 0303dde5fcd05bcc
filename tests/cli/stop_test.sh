# --stop ends the text before the string, wherever tokens begin and end; several may be given.
. "$(dirname "$0")/common.sh"

mlx_mamba generate --prompt "ROMEO:" --temperature 0 --max-tokens 60 > whole
python3 -c "
text = open('whole', newline='').read()
stop = text[20:23]
open('stop', 'w', newline='').write(stop)
open('expected', 'w', newline='').write(text[:text.index(stop)] + '\n')
"
stop=$(cat stop; echo x)
stop=${stop%x}
mlx_mamba generate --prompt "ROMEO:" --temperature 0 --max-tokens 60 --stop "$stop" > got
expect_same got expected
mlx_mamba generate --prompt "ROMEO:" --temperature 0 --max-tokens 60 --stop="no such text" "--stop=$stop" --stop "{}" > got
expect_same got expected
mlx_mamba generate --prompt "ROMEO:" --temperature 0 --max-tokens 60 --stop "$stop" --json > j
json j "d[0]['finish_reason'] == 'stop' and d[0]['text'] + '\n' == open('expected', newline='').read()"
json j "len(d[0]['tokens']) < 60"

expect_error 2 "stop must not be empty" generate --prompt "ROMEO:" --stop ""
expect_error 2 "stop must not be empty" generate --stop= --prompt "ROMEO:"
