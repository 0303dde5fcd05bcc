#!/usr/bin/env python3
"""Draws docs/images/cpu_*.svg from the figures of bench/peers/run.py, and prints the tables of docs/performance.md.

    bench/peers/plot.py --speeds speeds.json --lengths lengths.json --out docs/images

Several files of a kind, say one for each precision, are taken together.
"""
import argparse
import json
import math
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
from svg import line, start, text, write

COLOURS = {"mlx-mamba": "#1f5fb0", "llama.cpp": "#b4542d", "transformers": "#2f7d6b", "mambapy": "#7a5ea8", "mlx-lm": "#8a8a8a"}
GRADES = {"float32": "#1f5fb0", "bfloat16": "#2f7d6b", "8 bits": "#b4542d", "4 bits": "#7a5ea8"}
WHATS = {"prompt": "prompt of 512", "generation": "generation, 1 sequence", "8 sequences": "generation, 8 sequences"}


def note(svg, data, width, height):
    svg.append(text(width / 2, height - 12, f'{data["shape"]} shape, {data["threads"]} threads, commit {data["commit"]}; {data["machine"]}',
                    more='font-size="12" fill="#555555"'))


def bars(svg, points, what, left, top, width, height):
    mine = [p for p in points if p["what"] == what]
    high = max(p["fastest"] for p in mine) * 1.12
    svg.append(text(left + width / 2, top - 12, WHATS[what] + ", tokens/s", more='font-weight="600"'))
    svg.append(line(left, top + height, left + width, top + height, "#888888"))
    precisions = [name for name in GRADES if any(p["precision"] == name for p in mine)]
    cell = width / len(precisions)
    for i, precision in enumerate(precisions):
        group = [p for p in mine if p["precision"] == precision]
        bar = min(22.0, cell / (len(group) + 1))
        x = left + i * cell + (cell - bar * len(group)) / 2
        for p in group:
            tall = p["median"] / high * height
            svg.append(f'<rect x="{x:.1f}" y="{top + height - tall:.1f}" width="{bar - 3:.1f}" height="{tall:.1f}" fill="{COLOURS[p["side"]]}"/>')
            low, fast = (top + height - p[k] / high * height for k in ("slowest", "fastest"))
            svg.append(line(x + bar / 2 - 1.5, low, x + bar / 2 - 1.5, fast, "#222222"))
            svg.append(text(x + bar / 2 - 1.5, fast - 5, f'{p["median"]:.0f}', more='font-size="10"'))
            x += bar
        svg.append(text(left + i * cell + cell / 2, top + height + 17, precision, more='font-size="12"'))


def draw_speeds(data, path):
    width, height = 1180, 400
    svg = start(width, height, "Tokens per second by precision and program")
    for i, what in enumerate(WHATS):
        bars(svg, data["points"], what, 30 + i * 386, 76, 350, 250)
    at = 300
    for side, colour in COLOURS.items():
        if any(p["side"] == side for p in data["points"]):
            svg.append(f'<rect x="{at}" y="18" width="14" height="14" fill="{colour}"/>')
            svg.append(text(at + 20, 30, side, "start"))
            at += 50 + 8 * len(side)
    note(svg, data, width, height)
    write(path, svg)


def draw_lengths(data, path):
    width, height = 760, 430
    left, top, wide, tall = 84, 60, 620, 280
    svg = start(width, height, "Prompt time against length")
    points = data["points"]
    lengths = sorted({p["length"] for p in points})
    seconds = [p["length"] / p["prompt"] for p in points]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))

    def x(length):
        return left + math.log(length / lengths[0]) / math.log(lengths[-1] / lengths[0]) * wide

    def y(value):
        return top + tall - (math.log10(value) - low) / (high - low) * tall

    for exponent in range(low, high + 1):
        svg.append(line(left, y(10**exponent), left + wide, y(10**exponent), "#dddddd"))
        svg.append(text(left - 8, y(10**exponent) + 4, f"{10.0**exponent:g} s", "end"))
    for length in lengths:
        svg.append(line(x(length), top, x(length), top + tall, "#eeeeee"))
        svg.append(text(x(length), top + tall + 18, f"{length:,}"))
    svg.append(text(left + wide / 2, top + tall + 38, "tokens of the prompt"))
    at = 90
    for precision, colour in GRADES.items():
        for side, dash in (("mlx-mamba", ""), ("llama.cpp", "6 4")):
            mine = sorted((p["length"], p["length"] / p["prompt"]) for p in points if p["precision"] == precision and p["side"] == side)
            if mine:
                style = f'stroke-dasharray="{dash}"' if dash else ""
                path_points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in mine)
                svg.append(f'<polyline points="{path_points}" fill="none" stroke="{colour}" stroke-width="2" {style}/>')
        if any(p["precision"] == precision for p in points):
            svg.append(line(at, 26, at + 26, 26, colour, 2))
            svg.append(text(at + 32, 30, precision, "start"))
            at += 60 + 8 * len(precision)
    svg.append(text(at + 8, 30, "dashed: llama.cpp", "start", 'fill="#555555"'))
    note(svg, data, width, height)
    write(path, svg)


def draw_roofline(data, path):
    """How near each of our figures comes to what memory and multipliers allow."""
    width, height = 760, 330
    left, top, wide, tall = 210, 50, 500, 20
    svg = start(width, height, "Share of the machine's limit")
    for share in range(0, 101, 20):
        svg.append(line(left + wide * share / 100, top - 8, left + wide * share / 100, top + tall * 12, "#dddddd"))
        svg.append(text(left + wide * share / 100, top - 14, f"{share} %"))
    row = 0
    for what, title in WHATS.items():
        for precision, colour in GRADES.items():
            for p in data["points"]:
                if p["side"] == "mlx-mamba" and p["what"] == what and p["precision"] == precision:
                    y = top + row * tall
                    svg.append(f'<rect x="{left}" y="{y + 3}" width="{wide * min(p["limit_fraction"], 1.05):.1f}" height="{tall - 6}" fill="{colour}"/>')
                    svg.append(text(left - 8, y + 14, f"{title}, {precision}", "end", 'font-size="11"'))
                    row += 1
    note(svg, data, width, height)
    write(path, svg)


def tables(speeds, lengths):
    print("| | mlx-mamba | of the limit | llama.cpp | ratio | others |\n|---|---|---|---|---|---|")
    for what, title in WHATS.items():
        for precision in GRADES:
            mine = {p["side"]: p for p in speeds["points"] if p["what"] == what and p["precision"] == precision}
            if not mine:
                continue

            def cell(side):
                p = mine[side]
                return f'{p["median"]:.0f} ({p["slowest"]:.0f}-{p["fastest"]:.0f})'

            others = ", ".join(f'{side} {mine[side]["median"]:.0f}' for side in mine if side not in ("mlx-mamba", "llama.cpp"))
            own = mine["mlx-mamba"]
            print(f'| {title}, {precision} | **{cell("mlx-mamba")}** | {own["limit_fraction"]:.0%} | {cell("llama.cpp")} | {own["ratio"]:.2f} | {others} |')
    print("\n| prompt | precision | mlx-mamba, tokens/s | generation after it | peak memory | llama.cpp |\n|---|---|---|---|---|---|")
    for p in lengths["points"]:
        if p["side"] == "mlx-mamba":
            peer = [q for q in lengths["points"] if q["side"] == "llama.cpp" and (q["length"], q["precision"]) == (p["length"], p["precision"])]
            beside = f'{peer[0]["prompt"]:.0f}' if peer else ""
            print(f'| {p["length"]:,} | {p["precision"]} | {p["prompt"]:.0f} | {p["generation"]:.1f} | {p["peak_memory_mb"]:.0f} MB | {beside} |')


def joined(paths, key):
    """The first file with the points of all, each measured thing once: the first counts."""
    data = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            data.append(json.load(file))
    points = {}
    for of_file in data:
        for p in of_file["points"]:
            points.setdefault(tuple(p[k] for k in key), p)
    return {**data[0], "points": list(points.values())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speeds", nargs="+", required=True)
    parser.add_argument("--lengths", nargs="+", required=True)
    parser.add_argument("--out", required=True, help="a folder")
    args = parser.parse_args()
    speeds = joined(args.speeds, ("precision", "what", "side"))
    lengths = joined(args.lengths, ("precision", "length", "side"))
    draw_speeds(speeds, os.path.join(args.out, "cpu_speeds.svg"))
    draw_roofline(speeds, os.path.join(args.out, "cpu_limits.svg"))
    draw_lengths(lengths, os.path.join(args.out, "cpu_lengths.svg"))
    tables(speeds, lengths)


if __name__ == "__main__":
    main()
