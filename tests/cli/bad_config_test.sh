# Configurations that make no sense: one line naming file and field, exit code 1.
. "$(dirname "$0")/common.sh"

tiny_model good
# with CODE: m is the good model, its configuration `c` changed by CODE.
with() {
  rm -rf m
  cp -r good m
  python3 -c "
import json
c = json.load(open('m/config.json'))
$1
json.dump(c, open('m/config.json', 'w'))
"
}
refused() {
  expect_error 1 "m/config.json: .*$1" generate --model m --tokens 1,2
}
for field in hidden_size vocab_size; do
  with "del c['$field']"
  refused "$field.* is missing"
  with "c['$field'] = -1"
  refused "$field"
  with "c['$field'] = 1 << 60"
  refused "$field"
  with "c['$field'] = 'wide'"
  refused "$field"
done
with "c['num_hidden_layers'] = 1000000000"
refused "num_hidden_layers"
with "c['state_size'] = 0"
refused "state_size"
with "c['model_type'] = 'llama'"
refused "llama"
with "c = []"
refused "JSON object"
with "c = {}"
refused "missing\|model_type"
with "pass"
printf '{"model_type": "mamba", ' > m/config.json
refused "not valid JSON"
printf '\377\376' > m/config.json
refused "not valid JSON"
awk 'BEGIN { for (i = 0; i < 100000; ++i) printf "[" }' > m/config.json
refused "nested deeper"

# Sizes that the weights do not have.
with "c['hidden_size'] = c['hidden_size'] + 8; c['intermediate_size'] = c['hidden_size'] * 2"
expect_error 1 "m/model.safetensors: " generate --model m --tokens 1,2
with "c['num_hidden_layers'] = c['num_hidden_layers'] + 1"
expect_error 1 "m/model.safetensors: " generate --model m --tokens 1,2

expect_error 1 "no such folder" generate --model ./absent --tokens 1
expect_error 1 "no such folder" generate --model "not a name!" --tokens 1
expect_error 2 "is a file" generate --model good/config.json --tokens 1
