# A device that is not there is refused in one line.
. "$(dirname "$0")/common.sh"

if mlx_mamba generate --prompt a --max-tokens 1 --device gpu > out 2> err; then
  skip "this machine has a GPU"
fi
expect_error 1 "device gpu: MLX finds no GPU here; leave the option out" generate --prompt a --device gpu
mlx_mamba generate --prompt a --max-tokens 3 --temperature 0 --device cpu > a
mlx_mamba generate --prompt a --max-tokens 3 --temperature 0 > b
expect_same a b
