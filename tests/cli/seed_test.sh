# The same seed gives the same text; without one a random seed is taken, which --stats tells.
. "$(dirname "$0")/common.sh"

generate() {
  mlx_mamba generate --prompt "To be" --max-tokens 30 --temperature 1 --top-p 1 "$@"
}
generate --seed 11 > a
generate --seed 11 > b
expect_same a b
generate --seed 12 > b
! cmp -s a b || fail "two seeds gave one text"

generate --stats > a 2> err
seed=$(sed -n 's/^seed: //p' err)
generate --seed "$seed" > b
expect_same a b
