#!/usr/bin/env python3
"""Writes mamba/text/unicode_tables.cpp: the character classes that Hugging Face's `tokenizers` works with.

Its parts were built from different versions of Unicode, and Linux distributions ship yet others in Oniguruma and
utf8proc. So the classes are asked of the pinned package itself, code point by code point, and kept as tables; what
the installed libraries know beyond or short of them does not change any token.

    pip install tokenizers==0.23.3 unicodedata2==18.0.0
    python tools/make_unicode_tables.py > mamba/text/unicode_tables.cpp

unicodedata2 tells which characters later versions of Unicode normalise that the package leaves alone; Python's own
unicodedata (3.11: Unicode 14) is the base to which new general categories are listed.
"""

import sys
import unicodedata

import tokenizers
import unicodedata2
from tokenizers import Regex, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CHUNK = 4096
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp").split()


def chunks():
    for i in range(0, len(CODE_POINTS), CHUNK):
        yield CODE_POINTS[i : i + CHUNK]


def kept(pre_tokenizer):
    """The code points that a pre-tokenizer leaves in its output."""
    out = set()
    for chunk in chunks():
        for text, _ in pre_tokenizer.pre_tokenize_str("".join(map(chr, chunk))):
            out.update(map(ord, text))
    return out


def matching(regex):
    return kept(pre_tokenizers.Split(Regex(regex), "removed", invert=True))


def numeric():
    digits = pre_tokenizers.Digits(individual_digits=True)
    out = set()
    for chunk in chunks():
        for text, _ in digits.pre_tokenize_str("a" + "a".join(map(chr, chunk)) + "a"):
            if len(text) == 1 and text != "a":
                out.add(ord(text))
    return out


def word(whitespace):
    """Whitespace splits on \\w+|[^\\w\\s]+: between letters, a character that is no \\w stands alone."""
    splitter = pre_tokenizers.Whitespace()
    other = set()
    for chunk in chunks():
        for text, _ in splitter.pre_tokenize_str("a" + "a".join(map(chr, chunk)) + "a"):
            if "a" not in text:
                other.update(map(ord, text))
    return set(CODE_POINTS) - other - whitespace


def lower_rows():
    """(first, last, stride, delta) for the one-to-one mappings; the only other one is asserted."""
    lower = normalizers.Lowercase()
    pairs = []
    for c in CODE_POINTS:
        mapped = lower.normalize_str(chr(c))
        if mapped != chr(c):
            if len(mapped) != 1:
                assert c == 0x130 and mapped == "i\u0307", hex(c)
                continue
            pairs.append((c, ord(mapped) - c))
    rows = []
    for c, delta in pairs:
        if rows and rows[-1][3] == delta:
            first, last, stride, _ = rows[-1]
            if first == last and c - last <= 2:
                rows[-1] = [first, c, c - last, delta]
                continue
            if first != last and c - last == stride:
                rows[-1][1] = c
                continue
        rows.append([c, c, 1, delta])
    return rows


def inert():
    """Code points that the package treats as without decomposition, combining class or composition, though Unicode
    has since given them one: a canonical reordering or composition never crosses them."""
    nfd, nfc, nfkd = normalizers.NFD(), normalizers.NFC(), normalizers.NFKD()
    out = set()
    for c in CODE_POINTS:
        s = chr(c)
        if any(unicodedata2.normalize(f, s) != n.normalize_str(s) for f, n in (("NFD", nfd), ("NFKD", nfkd))):
            assert nfkd.normalize_str(s) == s, hex(c)
            out.add(c)
        if unicodedata2.combining(s):
            if nfd.normalize_str("a" + s + "\u0334") != unicodedata2.normalize("NFD", "a" + s + "\u0334"):
                out.add(c)
            if nfd.normalize_str("a\U0001d16d\u0345" + s) != unicodedata2.normalize("NFD", "a\U0001d16d\u0345" + s):
                out.add(c)
        parts = unicodedata2.decomposition(s).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            first, second = (chr(int(x, 16)) for x in parts)
            pair = first + second
            if nfc.normalize_str(pair) != unicodedata2.normalize("NFC", pair):
                out.add(ord(first))
    return out


def new_categories():
    rows = []
    for name in CATEGORIES:
        for c in matching(r"\p{%s}" % name):
            if unicodedata.category(chr(c)) != name:
                rows.append((c, name))
    rows.sort()
    out = []
    for c, name in rows:
        if out and out[-1][1] == c - 1 and out[-1][2] == name:
            out[-1][1] = c
        else:
            out.append([c, c, name])
    return out


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def emit(type_name, name, rows):
    print(f"const std::array<{type_name}, {len(rows)}> {name} = {{{{")
    line = "   "
    for row in rows:
        item = " {" + ", ".join(row) + "},"
        if len(line) + len(item) > 118:
            print(line)
            line = "   "
        line += item
    print(line)
    print("}};\n")


def hexed(rows):
    return [[f"0x{a:x}", f"0x{b:x}"] for a, b in rows]


def main():
    assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
    whitespace = set(CODE_POINTS) - kept(pre_tokenizers.WhitespaceSplit())
    print(f"""// Made by tools/make_unicode_tables.py from tokenizers {tokenizers.__version__}; not edited by hand.
#include "mamba/text/unicode_tables.h"

// clang-format off
namespace mamba::text::tables {{
""")
    emit("Range", "kWhitespace", hexed(ranges(whitespace)))
    emit("Range", "kWord", hexed(ranges(word(whitespace))))
    emit("Range", "kNumeric", hexed(ranges(numeric())))
    emit("Range", "kPunctuation", hexed(ranges(set(CODE_POINTS) - kept(pre_tokenizers.Punctuation("removed")))))
    emit("Range", "kInert", hexed(ranges(inert())))
    emit("LowerRow", "kLower", [[f"0x{a:x}", f"0x{b:x}", str(s), str(d)] for a, b, s, d in lower_rows()])
    emit("CategoryRow", "kNewCategories", [[f"0x{a:x}", f"0x{b:x}", f'"{n}"'] for a, b, n in new_categories()])
    print("}  // namespace mamba::text::tables")
    print(f"Unicode {unicodedata2.unidata_version} beside tokenizers {tokenizers.__version__}", file=sys.stderr)


if __name__ == "__main__":
    main()
