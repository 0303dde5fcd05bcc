# Ctrl-C: what was written stays, with a newline after it; nothing half-written is left; exit code 130.
. "$(dirname "$0")/common.sh"

# A shell starts background jobs with SIGINT ignored, so Python does it.
interrupted() {
  python3 -c "
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
p = subprocess.Popen(sys.argv[2:], stdout=open('out', 'wb'), stderr=open('err', 'wb'), stdin=subprocess.PIPE)
started = time.time()
while open('out', 'rb').read() == b'' and sys.argv[1] == 'text' and time.time() - started < 60:
    time.sleep(0.02)
if sys.argv[1] == 'wait':
    time.sleep(0.5)
p.send_signal(signal.SIGINT)
sys.exit(p.wait(timeout=60))
" "$@"
}
code=0
interrupted text "$MLX_MAMBA" generate --prompt "ROMEO:" --max-tokens 1000000 --ignore-eos --save-state state || code=$?
[ "$code" -eq 130 ] || fail "exit code $code: $(cat err)"
[ ! -s err ] || fail "stderr: $(cat err)"
[ -s out ] && [ "$(tail -c 1 out)" = "" ] || fail "no newline at the end: $(tail -c 20 out)"
[ "$(ls)" = "$(printf 'err\nout')" ] || fail "something was left behind: $(ls)"

# While it waits for its prompt.
code=0
interrupted wait "$MLX_MAMBA" generate --prompt-file - || code=$?
[ "$code" -eq 130 ] || fail "exit code $code: $(cat err)"
[ ! -s out ] && [ ! -s err ] || fail "said something: $(cat out err)"
