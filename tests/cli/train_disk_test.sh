# A disk that is full while training: says so, and keeps the checkpoints that are there. A limit on the size of files
# stands in for the disk.
. "$(dirname "$0")/common.sh"

cp "$MAMBA_SOURCE_DIR/README.md" text.md
mlx_mamba train --data text.md --tokenizer train:300 --d-model 32 --n-layer 2 --seq-len 16 --batch-size 1 --steps 2 --save-every 2 \
  --eval-every 2 --out run > out
code=0
(
  ulimit -f 100
  "$MLX_MAMBA" train --out run --resume --steps 6 --save-every 2 --eval-every 2 > out 2> err
) || code=$?
[ "$code" -eq 1 ] || fail "exit code $code: $(cat err)"
grep -q '^mlx-mamba: run/checkpoints/.*: cannot be written: ' err || fail "message: $(cat err)"
[ "$(readlink run/last)" = checkpoints/step-2 ] || fail "last is $(readlink run/last)"
[ "$(ls -A run/checkpoints)" = step-2 ] || fail "something was left behind: $(ls -A run/checkpoints)"
mlx_mamba train --out run --resume --steps 6 > out 2> err || fail "$(cat err)"
[ "$(readlink run/last)" = checkpoints/step-6 ] || fail "last is $(readlink run/last)"

# A folder that cannot be made.
: > file
code=0
mlx_mamba train --data text.md --tokenizer train:300 --out file/run > out 2> err || code=$?
[ "$code" -eq 1 ] || fail "exit code $code: $(cat err)"
grep -q '^mlx-mamba: file/run.*cannot be made: Not a directory' err || fail "message: $(cat err)"
