#!/usr/bin/env python3
"""Makes tests/golden/bpe: a small corpus, and what Hugging Face's `tokenizers` learns from it.

    pip install tokenizers==0.23.3
    python tools/make_golden_bpe.py --shakespeare tinyshakespeare.txt

expected.json holds the merges of a vocabulary of up to 700 for the corpus, the ids of some texts with it, and for Tiny
Shakespeare with a vocabulary of 2048 the FNV-1a hash (64 bits) of the merges, a line each.
"""

import argparse
import json
import pathlib
import random

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/bpe"
WORDS = (
    "the of and to in a is that for it was on are as with his they be at one have this from or had by hot word but what "
    "some we can out other were all there when up use your how said an each she which do their time if will way about "
    "many then them write would like so these her long make thing see him two has look more day could go come did number "
    "sound no most people my over know water than call first who may down side been now find aaaa aaaaa abab ababab "
    "naïve café Straße élève слово слова словами 文字 文章 東京 東京都 123 12 2024 1,000 it's they're we'll I'm ... -- !!"
).split()
TEXTS = ["", "the words of the people", "  two  spaces\n\nand lines\t", "naïve 東京都 словами 😀", "aaaaaaa ababab it's",
         "<|endoftext|>", "the<|endoftext|>the", "12 2024 1,000 3.14", "\x00\x7f"]


def corpus():
    draw = random.Random(7)
    lines = []
    for _ in range(400):
        words = [draw.choice(WORDS[: 1 + int(len(WORDS) * draw.random())]) for _ in range(draw.randrange(1, 16))]
        lines.append(draw.choice(["", " ", "  "]) + draw.choice([" ", " ", " ", "  "]).join(words) + draw.choice([".", "", "?"]))
    return "\n".join(lines) + "\n\n\n"


def train(text, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def merges_of(tokenizer):
    return json.loads(tokenizer.to_str())["model"]["merges"]


def fnv(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shakespeare", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    text = corpus()
    (OUT / "corpus.txt").write_text(text, encoding="utf-8", newline="")
    tokenizer = train(text, 700)
    shakespeare = train(arguments.shakespeare.read_text(encoding="utf-8"), 2048)
    expected = {
        "tokenizers": tokenizers.__version__,
        "merges": merges_of(tokenizer),
        "texts": [{"text": t, "ids": tokenizer.encode(t).ids} for t in TEXTS],
        "shakespeare": fnv("".join(f"{a} {b}\n" for a, b in merges_of(shakespeare))),
    }
    (OUT / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
