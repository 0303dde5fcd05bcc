#!/usr/bin/env python3
"""Prompt and generation speed of mlx-mamba beside transformers, float32, in one interleaved run.

    pip install -r tools/requirements.txt
    tools/make_golden_models.py --big /tmp/m130        # a model of mamba-130m's shape, random weights
    bench/compare_transformers.py build/release/bin/mlx-mamba /tmp/m130 --threads 2

Each round runs ours, then theirs; the table shows medians over the rounds and their range. Work is the same: greedy
continuation of one prompt, from the same weights, logits of the last position only, loading excluded.
"""
import argparse
import re
import statistics
import subprocess
import time

import torch
from transformers import AutoModelForCausalLM


def ours(program, model, prompt, new_tokens, threads):
    ids = ",".join(map(str, prompt))
    result = subprocess.run(
        [program, "generate", "--model", model, "--tokens", ids, "--max-tokens", str(new_tokens), "--temperature", "0",
         "--ignore-eos", "--stats", "--threads", str(threads)],
        capture_output=True, text=True, check=True)
    speeds = re.findall(r"^(?:prompt|generation): \d+ tokens, ([\d.]+) tokens/s", result.stderr, re.MULTILINE)
    return tuple(map(float, speeds))


@torch.inference_mode()
def theirs(model, prompt, new_tokens):
    start = time.perf_counter()
    out = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
    middle = time.perf_counter()
    token = out.logits[:, -1:].argmax(-1)
    for _ in range(new_tokens):
        out = model(token, cache_params=out.cache_params, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
    end = time.perf_counter()
    return len(prompt) / (middle - start), new_tokens / (end - middle)


def shown(values):
    return f"{statistics.median(values):8.1f} ({min(values):.1f}-{max(values):.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    prompt = [(i * 7919 + 13) % model.config.vocab_size for i in range(args.prompt)]
    theirs(model, prompt[:32], 2)
    rows = {"mlx-mamba": [], "transformers": []}
    for _ in range(args.rounds):
        rows["mlx-mamba"].append(ours(args.program, args.model, prompt, args.new, args.threads))
        rows["transformers"].append(theirs(model, prompt, args.new))
    print(f"{args.prompt} prompt tokens, {args.new} generated, {args.threads} threads, {args.rounds} rounds, torch {torch.__version__}")
    for name, speeds in rows.items():
        prompts, generations = zip(*speeds)
        print(f"{name:14} prompt {shown(prompts)} tokens/s   generation {shown(generations)} tokens/s")
    for i, what in enumerate(("prompt", "generation")):
        ratios = [a[i] / b[i] for a, b in zip(rows["mlx-mamba"], rows["transformers"])]
        print(f"ratio, {what}: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()
