#!/usr/bin/env python3
"""mlx-mamba beside its peers on a CPU, all sides in turn, with the same threads.

    bench/peers/install
    build/peers/bin/python bench/peers/run.py speeds build/release/bin/mlx-mamba MODELS --shape 130m --out speeds.json
    build/peers/bin/python bench/peers/run.py lengths build/release/bin/mlx-mamba MODELS --out lengths.json
    build/peers/bin/python bench/peers/plot.py --speeds speeds.json --lengths lengths.json --out docs/images

MODELS is a folder for random models, made on first use (bench/peers/make_model.py). speeds: a prompt of 512, 128 tokens
after it, and 8 sequences at once, in float32, bfloat16, 8 and 4 bits; ratios pair by pair. lengths: prompts of growing
length. Each round runs every side once, as a process of its own whose loading does not count; tables show medians and
range. The last line says what share of the processors other processes had: with more than a few per cent the figures
are no comparison.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from importlib.metadata import version

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import make_model
from measuring import OtherLoad, machine, program, shown

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = {"float32": "f32", "bfloat16": "bf16", "8 bits": "q8_0", "4 bits": "q4_0"}
OURS, LLAMA = "mlx-mamba", "llama.cpp"


def ours_arguments(precision, folder):
    """8 and 4 bits compute in bfloat16, from weights quantised when they are loaded."""
    if precision in ("float32", "bfloat16"):
        return ["--model", os.path.join(folder, precision)]
    return ["--model", os.path.join(folder, "bfloat16"), "--quantize", precision[0]]


def measure(side, args, folder, precision, prompt, new, batch, repeat):
    """Prompt and generation tokens per second."""
    common = ["--threads", args.threads, "--repeat", repeat]
    if side == OURS:
        out = program(args.program, "bench", *ours_arguments(precision, folder), "-p", prompt, "-n", new, "-b", batch, "--json", *common)
    elif side == LLAMA:
        out = program(sys.executable, os.path.join(HERE, "side_llama.py"), os.path.join(folder, FILES[precision] + ".gguf"), "--prompt", prompt,
                      "--new", new, "--batch", batch, *common)
    else:
        out = program(sys.executable, os.path.join(HERE, "side_torch.py"), side, os.path.join(folder, precision), "--prompt", prompt,
                      "--new", min(new, 16), *common)
    result = json.loads(out.splitlines()[-1])
    return result["prompt_tokens_per_second"], result["generation_tokens_per_second"], result


def interleaved(sides, rounds, run):
    """The results of `run(side)` by side, every side once in each round."""
    results = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            results[side].append(run(side))
    return results


def about(args):
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    return {"machine": machine(), "command": "bench/peers/run.py " + " ".join(sys.argv[1:]), "commit": commit, "threads": args.threads,
            "rounds": args.rounds, "versions": {"llama-cpp-python": "0.3.36", **{name: version(name) for name in ("torch", "transformers")}}}


def compare_speeds(args):
    folder = os.path.join(args.models, args.shape)
    os.makedirs(folder, exist_ok=True)
    make_model.make(args.shape, folder)
    points, load = [], OtherLoad()
    works = [("prompt", 512, 0, 1), ("generation", 1, args.new, 1), ("8 sequences", 1, max(args.new // 4, 8), 8)]
    for precision in args.precisions:
        for what, prompt, new, batch in works:
            sides = [OURS, LLAMA] + (args.others if precision == "float32" and batch == 1 else [])
            index = 0 if what == "prompt" else 1
            results = interleaved(sides, args.rounds,
                                  lambda side: measure(side, args, folder, precision, prompt, new or 1, batch, args.repeat))
            speeds = {side: [r[index] for r in of_side] for side, of_side in results.items()}
            key = "prompt_limit_fraction" if what == "prompt" else "generation_limit_fraction"
            limit = statistics.median(r[2][key] for r in results[OURS])
            for side, values in speeds.items():
                points.append({"precision": precision, "what": what, "side": side, "median": statistics.median(values),
                               "slowest": min(values), "fastest": max(values), "limit_fraction": limit if side == OURS else None})
            ratios = [a / b for a, b in zip(speeds[OURS], speeds[LLAMA])]
            print(f"{precision:9} {what:12} " + "   ".join(f"{side} {shown(values, 1)}" for side, values in speeds.items()) +
                  f"   ratio {shown(ratios, 1, 2)}   {limit:.0%} of the limit", flush=True)
            points[-len(speeds)]["ratio"] = statistics.median(ratios)
    finish(args, {"shape": args.shape, "points": points}, load)


def compare_lengths(args):
    folder = os.path.join(args.models, args.shape)
    os.makedirs(folder, exist_ok=True)
    make_model.make(args.shape, folder)
    points, load = [], OtherLoad()
    for length in args.lengths:
        sides = [side for side in (OURS, LLAMA) if side == OURS or length <= args.longest_peer]
        for precision in args.precisions:
            results = interleaved(sides, args.rounds if length < 16384 else 1,
                                  lambda side: measure(side, args, folder, precision, length, 32, 1, 1))
            for side, of_side in results.items():
                prompts, news = [r[0] for r in of_side], [r[1] for r in of_side]
                points.append({"precision": precision, "side": side, "length": length, "prompt": statistics.median(prompts),
                               "generation": statistics.median(news), "peak_memory_mb": of_side[-1][2].get("peak_memory_mb")})
                print(f"{precision:9} L {length:6} {side:10} prompt {shown(prompts, 1)} tokens/s   then {shown(news, 1)} tokens/s", flush=True)
    finish(args, {"shape": args.shape, "points": points}, load)


def finish(args, data, load):
    share = load.share()
    print(f"others {share:.1%}")
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump({**about(args), "others": round(share, 3), **data}, file, indent=1)
            file.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speeds", "lengths"))
    parser.add_argument("program", help="mlx-mamba")
    parser.add_argument("models", help="a folder for random models")
    parser.add_argument("--shape", choices=make_model.SHAPES, default="130m")
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=list(FILES))
    parser.add_argument("--others", type=lambda text: [name for name in text.split(",") if name], default=["transformers", "mambapy", "mlx-lm"],
                        help="peers measured in float32 beside llama.cpp")
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3, help="passes of a side in one round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")], default=[512, 2048, 8192, 32768, 100000])
    parser.add_argument("--longest-peer", type=int, default=8192, help="lengths: longer prompts are ours alone")
    parser.add_argument("--out", help="a file for the figures, as JSON")
    args = parser.parse_args()
    (compare_speeds if args.what == "speeds" else compare_lengths)(args)


if __name__ == "__main__":
    main()
