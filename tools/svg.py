"""The few shapes that the plots here are made of, as lines of SVG."""

FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'


def start(width, height, label):
    return [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'role="img" aria-label="{label}">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>', f'<g {FONT} font-size="13" fill="#222222">']


def text(x, y, words, anchor="middle", more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{words}</text>'


def line(x1, y1, x2, y2, colour, width=1.0, more=""):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}" {more}/>'


def write(path, svg):
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(svg + ["</g>", "</svg>", ""]))
