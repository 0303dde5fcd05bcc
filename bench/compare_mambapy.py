#!/usr/bin/env python3
"""Selective scan and training step beside mambapy, both sides in turn, on a CPU.

    pip install -r tools/requirements.txt
    cmake --preset bench && cmake --build --preset bench --target selective_scan_compare_bench train_step_bench
    bench/compare_mambapy.py scan build/bench/bin --out docs/images/selective_scan.json
    bench/compare_mambapy.py step build/bench/bin
    bench/compare_mambapy.py lengths build/bench/bin

scan: one row, D = 1536, N = 16, float32: y from x, delta, A, B, C, D, and with the backward pass the gradients of all
six. mambapy's side is MambaBlock.selective_scan, ours the op; beside them the same in plain MLX operations, as a loop
over time and as Blelloch's scan. step: one training step of mamba-130m's shape, 1 x 512, against transformers with
mambapy's scan, AdamW included. lengths: one layer of that width with a small vocabulary, ours alone.

Each round runs every side once; tables show medians and range. Every line ends with the share of the processors that
other processes had meanwhile: barriers between threads make some sides suffer from it far more than others, so lines
with more than a few per cent are no comparison.
"""
import argparse
import json
import os
import re
import statistics
import sys
import time
from importlib.metadata import version
from types import SimpleNamespace

from measuring import OtherLoad, machine, program, shown

CHANNELS, STATES = 1536, 16
OURS = ("kernel", "blelloch", "loop")
PASSES = ("forward", "backward")


def ours(folder, scan, which, length, runs):
    out = program(os.path.join(folder, "selective_scan_compare_bench"), scan, which, length, runs, CHANNELS, STATES)
    rows = [json.loads(line) for line in out.splitlines()]
    return [row["seconds"] for row in rows], rows[-1]["peak_mb"]


class Mambapy:
    """MambaBlock.selective_scan on inputs of the same size and range as selective_scan_compare_bench makes."""

    def __init__(self, length):
        import torch
        from mambapy.mamba import MambaBlock

        torch.manual_seed(1)
        self.torch = torch
        self.scan = lambda *inputs: MambaBlock.selective_scan(SimpleNamespace(), *inputs)
        A = -torch.arange(1, STATES + 1, dtype=torch.float32).expand(CHANNELS, STATES).contiguous()
        dt = torch.exp(torch.randn(1, length, CHANNELS) * 0.5 - 3)
        self.inputs = [torch.randn(1, length, CHANNELS), dt, A, torch.randn(1, length, STATES),
                       torch.randn(1, length, STATES), torch.randn(CHANNELS)]
        self.cotangent = torch.randn(1, length, CHANNELS)

    def run(self, which):
        inputs = [a.detach().requires_grad_(which == "backward") for a in self.inputs]
        start = time.perf_counter()
        with self.torch.set_grad_enabled(which == "backward"):
            y = self.scan(*inputs)
            if which == "backward":
                y.backward(self.cotangent)
        return time.perf_counter() - start


def compare_scan(args):
    import torch

    torch.set_num_threads(args.threads)
    points = []
    for length in args.lengths:
        theirs = Mambapy(length)
        for which in PASSES:
            sides = {name: [] for name in (*OURS, "mambapy")}
            peaks = {}
            theirs.run(which)
            others = OtherLoad()
            for _ in range(args.rounds):
                for name in OURS:
                    if length > args.limit.get((name, which), length):
                        continue
                    seconds, peaks[name] = ours(args.folder, name, which, length, 5 if name == "kernel" else 1)
                    sides[name].append(statistics.median(seconds))
                sides["mambapy"].append(theirs.run(which))
            share = others.share()
            row = []
            for name, seconds in sides.items():
                if seconds:
                    points.append({"scan": name, "pass": which, "length": length, "seconds": statistics.median(seconds),
                                   "fastest": min(seconds), "slowest": max(seconds), "peak_mb": peaks.get(name), "others": round(share, 3)})
                    row.append(f"{name} {shown(seconds)} ms")
            ratios = [b / a for a, b in zip(sides["kernel"], sides["mambapy"])]
            print(f"L {length:6} {which:8} " + "   ".join(row) + f"   mambapy / kernel {shown(ratios, 1)}   others {share:.1%}", flush=True)
    if args.out:
        data = {"machine": machine(), "command": "bench/compare_mambapy.py " + " ".join(sys.argv[1:]), "rounds": args.rounds,
                "threads": args.threads, "batch": 1, "channels": CHANNELS, "states": STATES, "dtype": "float32",
                "versions": {name: version(name) for name in ("mambapy", "torch")}, "points": points}
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            file.write("\n")


def run_steps(folder, dtype, length, steps, layers, width, vocab):
    """Seconds of each step after the first, and peak memory in MB."""
    out = program(os.path.join(folder, "train_step_bench"), dtype, 1, length, steps, layers, width, vocab)
    rows = re.findall(r"gradients ([\d.]+) s, update ([\d.]+) s, .* peak (\d+) MB", out)
    return [float(a) + float(b) for a, b, _ in rows[1:]], int(rows[-1][2])


class Transformers:
    """The same training step: loss, gradients, clipping to norm 1, AdamW. bfloat16 is torch's autocast."""

    def __init__(self, dtype):
        import torch
        from transformers import MambaConfig, MambaForCausalLM

        torch.manual_seed(1)
        self.torch = torch
        self.narrow = dtype == "bfloat16"
        self.model = MambaForCausalLM(MambaConfig(use_mambapy=True)).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.tokens = torch.randint(0, self.model.config.vocab_size, (1, 513))

    def run(self):
        start = time.perf_counter()
        with self.torch.autocast("cpu", self.torch.bfloat16, enabled=self.narrow):
            logits = self.model(self.tokens[:, :-1]).logits
            loss = self.torch.nn.functional.cross_entropy(logits[0].float(), self.tokens[0, 1:])
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start


def compare_step(args):
    import torch

    torch.set_num_threads(args.threads)
    for dtype in args.dtypes:
        theirs = Transformers(dtype)
        theirs.run()
        mine, other, load = [], [], OtherLoad()
        for _ in range(args.rounds):
            seconds, peak = run_steps(args.folder, dtype, 512, 3, 24, 768, 50280)
            mine.append(statistics.median(seconds))
            other.append(theirs.run())
        ratios = [b / a for a, b in zip(mine, other)]
        print(f"{dtype:8} mlx-mamba {shown(mine, 1, 2)} s, {peak} MB   transformers with mambapy {shown(other, 1, 2)} s   "
              f"ratio {shown(ratios, 1)}   others {load.share():.1%}", flush=True)


def table_of_lengths(args):
    for dtype in args.dtypes:
        for length in args.lengths:
            load = OtherLoad()
            seconds, peak = run_steps(args.folder, dtype, length, 3, 1, args.width, 256)
            median = statistics.median(seconds)
            print(f"{dtype:8} L {length:7} width {args.width}: {median:8.3f} s a step, {length / median:8.0f} tokens/s, {peak} MB   "
                  f"others {load.share():.1%}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scan", "step", "lengths"))
    parser.add_argument("folder", help="where the benchmark programs lie")
    parser.add_argument("--out", help="scan: a file for the figures, as JSON")
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--dtypes", type=lambda text: text.split(","), default=["float32", "bfloat16"])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limits", default="", help="scan: the longest length of a side, as loop:backward:2048,...")
    args = parser.parse_args()
    args.limit = {}
    for entry in filter(None, args.limits.split(",")):
        name, which, length = entry.split(":")
        args.limit[name, which] = int(length)
    if args.what == "scan":
        args.lengths = args.lengths or [256, 512, 1024, 2048, 4096, 8192]
        compare_scan(args)
    elif args.what == "step":
        compare_step(args)
    else:
        args.lengths = args.lengths or [512 << i for i in range(8)]
        table_of_lengths(args)


if __name__ == "__main__":
    main()
