"""What the comparisons in this folder share: the machine's name, other processes' load, programs run as they are."""
import os
import statistics
import subprocess


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    units = [name for flag, name in (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("amx_tile", "AMX")) if flag in flags]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {fields.get('model name')} (family {fields.get('cpu family')}, model {fields.get('model')}), {', '.join(units)}"


class OtherLoad:
    """The share of all processors that processes other than this one and its children have had since it was made."""

    def __init__(self):
        self.start = self.now()

    @staticmethod
    def now():
        with open("/proc/stat", encoding="utf-8") as file:
            ticks = [int(n) for n in file.readline().split()[1:9]]
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return busy - sum(os.times()[:4]), sum(ticks) / os.sysconf("SC_CLK_TCK")

    def share(self):
        busy, total = (b - a for a, b in zip(self.start, self.now()))
        return max(0.0, busy / max(total, 1e-9))


def program(*arguments, **environment):
    """Output of a program. A process inherits the peak memory of the one that started it, so a small shell does."""
    arguments = [str(a) for a in arguments]
    return subprocess.run(["sh", "-c", '"$@"; exit $?', "sh", *arguments], stdout=subprocess.PIPE, text=True, check=True,
                          env={**os.environ, **environment}).stdout


def shown(values, scale=1000.0, digits=1):
    return f"{statistics.median(values) * scale:.{digits}f} ({min(values) * scale:.{digits}f}-{max(values) * scale:.{digits}f})"
