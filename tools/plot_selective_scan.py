#!/usr/bin/env python3
"""Draws docs/images/selective_scan*.svg: time against length from the figures of bench/compare_mambapy.py, and
Blelloch's scan of eight positions.

    tools/plot_selective_scan.py docs/images/selective_scan.json docs/images
"""
import json
import math
import os
import sys

from svg import line, start, text, write

SIDES = {  # colour, dash, name
    "loop": ("#b4542d", "7 4", "loop, MLX operations"),
    "blelloch": ("#7a5ea8", "2 4", "Blelloch, MLX operations"),
    "mambapy": ("#2f7d6b", "11 4 2 4", "mambapy"),
    "kernel": ("#1f5fb0", "", "selective_scan"),
}
TITLES = {"forward": "forward", "backward": "forward and backward"}


def seconds_shown(exponent):
    return {-4: "0.1 ms", -3: "1 ms", -2: "10 ms", -1: "100 ms", 0: "1 s", 1: "10 s", 2: "100 s"}[exponent]


def panel(points, which, left, top, width, height, low, high, lengths):
    first, last = math.log2(lengths[0]), math.log2(lengths[-1])

    def x(length):
        return left + (math.log2(length) - first) / (last - first) * width

    def y(seconds):
        return top + height - (math.log10(seconds) - low) / (high - low) * height

    svg = [text(left + width / 2, top - 14, TITLES[which], more='font-weight="600"')]
    for exponent in range(low, high + 1):
        svg.append(line(left, y(10**exponent), left + width, y(10**exponent), "#dddddd"))
        svg.append(text(left - 8, y(10**exponent) + 4, seconds_shown(exponent), "end"))
    for length in lengths:
        svg.append(line(x(length), top, x(length), top + height, "#eeeeee"))
        svg.append(text(x(length), top + height + 18, f"{length:,}"))
    svg.append(text(left + width / 2, top + height + 38, "length L"))
    for name, (colour, dash, _) in SIDES.items():
        mine = sorted((p["length"], p["seconds"]) for p in points if p["scan"] == name and p["pass"] == which)
        path = " ".join(f"{x(length):.1f},{y(seconds):.1f}" for length, seconds in mine)
        style = f'stroke-dasharray="{dash}"' if dash else ""
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.2" {style}/>')
        svg += [f'<circle cx="{x(length):.1f}" cy="{y(seconds):.1f}" r="3.4" fill="{colour}"/>' for length, seconds in mine]
    return svg


def draw_times(data, path):
    points = data["points"]
    lengths = sorted({p["length"] for p in points})
    low = math.floor(math.log10(min(p["seconds"] for p in points)))
    high = math.ceil(math.log10(max(p["seconds"] for p in points)))
    width, height = 940, 470
    svg = start(width, height, "Time of a selective scan against its length")
    for i, which in enumerate(TITLES):
        svg += panel(points, which, 74 + i * 455, 70, 385, 300, low, high, lengths)
    at = 150
    for colour, dash, name in SIDES.values():
        svg.append(line(at, 26, at + 36, 26, colour, 2.2, f'stroke-dasharray="{dash}"' if dash else ""))
        svg.append(text(at + 44, 30, name, "start"))
        at += 76 + 7 * len(name)
    svg.append(text(width / 2, height - 30, f'B = {data["batch"]}, D = {data["channels"]}, N = {data["states"]}, {data["dtype"]}, '
                    f'{data["threads"]} threads; medians of {data["rounds"]} rounds', more='font-size="12" fill="#555555"'))
    svg.append(text(width / 2, height - 12, data["machine"], more='font-size="12" fill="#555555"'))
    write(path, svg)


def draw_sweeps(path):
    """Eight positions: joins on the way up, states on the way down."""
    count, width, step, row = 8, 940, 104, 54
    svg = start(width, 500, "The two sweeps of Blelloch's scan over eight positions")

    def x(i):
        return 128 + i * step

    def box(cx, cy, words, fill):
        return [f'<rect x="{cx - 38:.1f}" y="{cy - 15:.1f}" width="76" height="30" rx="6" fill="{fill}" stroke="#555555"/>',
                text(cx, cy + 5, words)]

    lines, boxes = [], []
    centres = [[x(i) for i in range(count)]]
    while len(centres[-1]) > 1:
        below = centres[-1]
        centres.append([(below[i] + below[i + 1]) / 2 for i in range(0, len(below), 2)])
    levels = len(centres)

    def up(k):
        return 220 - k * row

    def down(k):
        return 290 + (levels - 1 - k) * row

    for k, row_of in enumerate(centres):
        span = count // len(row_of)
        for i, cx in enumerate(row_of):
            a, b = i * span + 1, (i + 1) * span
            boxes += box(cx, up(k), f"f{a}" if a == b else f"f{a}…{b}", "#e3ecf7")
            boxes += box(cx, down(k), f"h{a - 1}", "#e6f2ec")
            if k > 0:
                for child in centres[k - 1][2 * i:2 * i + 2]:
                    lines.append(line(child, up(k - 1) - 15, cx, up(k) + 15, "#888888", 1.3))
                left, right = centres[k - 1][2 * i:2 * i + 2]
                lines.append(line(cx, down(k) + 15, left, down(k - 1) - 15, "#888888", 1.3))
                lines.append(line(cx, down(k) + 15, right, down(k - 1) - 15, "#1f5fb0", 1.6))
    svg += lines + boxes
    svg.append(text(14, up(3) + 5, "up", "start", 'font-weight="600"'))
    svg.append(text(14, down(3) + 5, "down", "start", 'font-weight="600"'))
    svg.append(text(width / 2, 486, "Blue: the state enters the right half after the left half's joined map was applied to it.",
                    more='font-size="12" fill="#555555"'))
    write(path, svg)


def main():
    data_path, folder = sys.argv[1:]
    with open(data_path, encoding="utf-8") as file:
        data = json.load(file)
    draw_times(data, os.path.join(folder, "selective_scan_times.svg"))
    draw_sweeps(os.path.join(folder, "selective_scan_sweeps.svg"))


if __name__ == "__main__":
    main()
