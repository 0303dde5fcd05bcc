# Progress goes to standard error: a bar on a terminal, plain lines elsewhere; never into the text.
. "$(dirname "$0")/common.sh"

mlx_mamba convert --out plain > out 2> err
[ ! -s out ] || fail "printed to stdout: $(cat out)"
! grep -q "$(printf '[\r\033]')" err || fail "control characters in a file: $(cat -v err)"
[ "$(wc -l < err)" -lt 5 ] || fail "too many lines: $(cat err)"

python3 -c "
import os, pty, subprocess, sys
terminal, other = pty.openpty()
p = subprocess.Popen(sys.argv[1:], stdout=open('out', 'wb'), stderr=other, stdin=subprocess.DEVNULL)
os.close(other)
shown = b''
try:
    while True:
        block = os.read(terminal, 4096)
        if not block:
            break
        shown += block
except OSError:
    pass  # the other side is closed
open('err', 'wb').write(shown)
sys.exit(p.wait())
" "$MLX_MAMBA" convert --out live
[ ! -s out ] || fail "printed to stdout: $(cat out)"
grep -q '100%' err || fail "no bar: $(cat -v err)"
cmp plain/model.safetensors live/model.safetensors
