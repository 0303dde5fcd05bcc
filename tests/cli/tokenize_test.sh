# Ids and back, byte for byte.
. "$(dirname "$0")/common.sh"

printf 'Hello\tw\303\266rld \360\237\230\200\n\n  end' > text
ids=$(mlx_mamba tokenize --text-file text)
echo "$ids" | grep -q -x '[0-9]*\(,[0-9]*\)*' || fail "ids: $ids"
mlx_mamba tokenize --decode "$ids" > back
expect_same back text
mlx_mamba tokenize --text-file - < text > again
[ "$ids" = "$(cat again)" ] || fail "standard input gives other ids"
mlx_mamba tokenize --text-file text --json > j
json j "d == [[$ids]]"
mlx_mamba tokenize --decode "$ids" --json > j
json j "d[0].encode() == open('text', 'rb').read()"
[ "$(mlx_mamba tokenize --text "" --json)" = "[]" ] || fail "ids of nothing"
[ "$(mlx_mamba tokenize --decode "" | wc -c)" -eq 0 ] || fail "text of nothing"

# Half a character: its exact bytes, or valid JSON.
golden=$MAMBA_SOURCE_DIR/tests/golden/tokenizer/bytes.json
half=$(python3 -c "
import json
vocabulary = json.load(open('$golden', encoding='utf-8'))['model']['vocab']
print(vocabulary['\u00c3'])")
mlx_mamba tokenize --tokenizer "$golden" --decode "$half" > byte
printf '\303' > expected
expect_same byte expected
mlx_mamba tokenize --tokenizer "$golden" --decode "$half" --json > j
json j "d == ['\ufffd']"

# From outside the model.
shipped=$(mlx_mamba info --json | python3 -c "import json, sys; print(json.load(sys.stdin)['tokenizer'])")
[ "$(mlx_mamba tokenize --tokenizer "$shipped" --text-file text)" = "$ids" ] || fail "--tokenizer gives other ids"

expect_error 2 "999999 is not in the vocabulary" tokenize --decode 1,999999
expect_error 2 "must be token ids" tokenize --decode 1,x
expect_error 2 "must be token ids" tokenize --decode 1,,2
expect_error 1 "absent.json: cannot be read" tokenize --tokenizer absent.json --text a
