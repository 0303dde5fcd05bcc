#!/usr/bin/env python3
"""Draws a terminal session as SVG: runs each command and shows what it really prints.

    tools/make_picture.py build/release/bin/mlx-mamba docs/images/session.svg
"""
import html
import subprocess
import sys

SESSION = [
    ("mlx-mamba generate --prompt 'ROMEO:' --max-tokens 90 --seed 7", 14),
    ("mlx-mamba score --text 'To be, or not to be: that is the question.' | tail -3", 3),
    ("mlx-mamba tokenize --text 'Now is the winter of our discontent'", 1),
]
WIDTH, LINE, LEFT, TOP = 100, 19, 18, 44


def lines_of(command, program, limit):
    result = subprocess.run(command.replace("mlx-mamba", program, 1), shell=True, capture_output=True, text=True, check=True)
    lines = result.stdout.rstrip("\n").split("\n")
    return [line[:WIDTH] for line in lines[:limit]]


def main():
    program, out = sys.argv[1:]
    rows = []
    for command, limit in SESSION:
        rows.append(("command", "$ " + command))
        rows += [("text", line) for line in lines_of(command, program, limit)]
        rows.append(("text", ""))
    rows.pop()
    width, height = LEFT * 2 + int(WIDTH * 8.43), TOP + LINE * len(rows) + 12
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'role="img" aria-label="A terminal session with mlx-mamba">',
        f'<rect width="{width}" height="{height}" rx="9" fill="#1b1f27"/>',
        *[f'<circle cx="{LEFT + 4 + 20 * i}" cy="19" r="6" fill="{c}"/>' for i, c in enumerate(("#ec6a5e", "#f4bf4f", "#61c554"))],
        '<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14">',
    ]
    for i, (kind, text) in enumerate(rows):
        colour = "#8fd3a8" if kind == "command" else "#d8dee9"
        svg.append(f'<text x="{LEFT}" y="{TOP + LINE * i + 8}" fill="{colour}" xml:space="preserve">{html.escape(text)}</text>')
    svg += ["</g>", "</svg>", ""]
    with open(out, "w", encoding="utf-8") as file:
        file.write("\n".join(svg))


if __name__ == "__main__":
    main()
