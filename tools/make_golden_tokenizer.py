#!/usr/bin/env python3
"""Makes tests/golden/tokenizer: small tokenizers, hard texts, and what Hugging Face's `tokenizers` makes of them.

    pip install tokenizers==0.23.3
    python tools/make_golden_tokenizer.py [--train text.txt] --neox gpt-neox-20b-tokenizer.json --shakespeare text.txt

Without --train the small vocabularies stay what they are; training them anew gives others, for it breaks ties at will.

bytes.json, characters.json and words.json are the vocabularies. Each case of cases.json is one of them with some of its sections
replaced (a JSON merge patch), so that every normalizer, splitter, post-processor and decoder is seen without another
vocabulary. expected.json keeps, for each case and text, the first 24 bits of two hashes: of the ids, and of the text
that they decode to; full ids only for two cases, where they help to find a fault. The hash is FNV-1a of 64 bits.
"""

import argparse
import json
import pathlib
import random

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/tokenizer"

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def texts():
    """Bytes, most of them well-formed UTF-8."""
    out = [
        "", " ", "  ", "a", "\n", "\r\n", "\t", "\x00", "Hello, world!", " Hello  world ", "Hello   \n\n  world\t\tx",
        "I'll we've they're he'd it's I'M DON'T can't 'tis ''s", "l'été naïve façade Ångström ÆØÅ æøå ẞ ß ſ İ ı ΑΣ Σσς",
        "e\u0301 \u00e9 e\u0301\u0327 \u1e69 s\u0323\u0307 s\u0307\u0323 \u1e0b\u0323 q\u0307\u0323 \u0344 \u2126 \u212b \ufb03 \u00bd \u2460 \u32ff",
        "가각힣 \u1100\u1161\u11a8 \u1100\u1161 \uac00\u11a8 한국어 텍스트", "日本語のテキスト。漢字かな交じり文、カタカナ。", "中文字符，没有空格的长句子测试一二三四五六七八九十。",
        "العربية نص من اليمين إلى اليسار ١٢٣", "עברית טקסט מימין לשמאל", "हिन्दी में पाठ क्षत्रिय १२३", "ไทยไม่มีช่องว่างระหว่างคำ", "தமிழ் మరియు ಕನ್ನಡ",
        "Ελληνικά κείμενο", "Русский текст, ёлка", "ქართული ႠႠ", "Հայերեն",
        "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷 1️⃣ ❤️ 🧑🏿‍🚀😀😃", "\u200b\u200c\u200d\u2060\ufeff\u00ad", "a\u200db a\u200cb x\u00a0y x\u3000y x\u2028y\u2029z x\u0085y",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕳𝖊𝖑𝖑𝖔 𝟘𝟙𝟚 𐍈 𒀀 𓀀", "x²+y³=z⁴ ½ ¾ Ⅷ ⅷ ①② 一二 ٣ ৪ 𑁦", "3.14159 1,000,000 0x1F 1e-10 12345678901234567890 ٠١٢٣٤٥٦٧٨٩",
        "def f(x):\n    if x > 0:\n\t\treturn x ** 2  # comment\n    return None\n\n\n", "int main(void) { printf(\"%d\\n\", a[i++] << 2); return 0; }",
        "SELECT * FROM t WHERE a='b' AND c<>1;--", "<div class=\"x\">&nbsp;</div><!-- ~ -->", "https://example.org/a/b?c=d&e=%20#f user@host.tld",
        "{\"key\": [1, 2.5, null, true]}", "CamelCaseIdentifier snake_case_name SCREAMING_CASE kebab-case", "$€£¥₿ §¶†‡ ©®™ ←↑→↓ ∀∃∅∈ ≤≥≠ ░▒▓",
        "!!!??? ... --- ___ ;;; ::: ,,, ((([[[{{{}}}]]])))", "«quotes» “curly” ‘single’ „low“ ‹x› 「」『』",
        "a" * 100, "ab" * 150, "=" * 77, " " * 100, "\n" * 40, " \n" * 20, "\t \t  \t   ", "x" + " " * 23 + "y" + " " * 25 + "z",
        "The quick brown fox jumps over the lazy dog. " * 4, "antidisestablishmentarianism" * 6, "\u0301" * 30, "a" + "\u0301\u0334\u0327" * 20,
        "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|endoftext|><|endoftext|>", "<|endoftext", "<<|endoftext|>>", "x <pad>  y", "x  <mask>  y",
        "foobar foo bar", "foo foobar barfoo foo_ foo-bar éfoo foo\u0301 foo\u200d", "FOO Foo fOO", "<Strip>  <strip>   x <STRIP>",
        "▁a ▁▁b \u2581", "<0x41> <0xE2> <unk> <s> </s>", "Ġthe Ċ ġ Ā", "##ing </w>",
        "\u1c89\u1c8a \ua7cb\ua7dc \U00031350\U000323af a\U0002ebf0b \U00010d40\U00010d50 \U0001e030 \U00016100x \U0001fae9",
        "\u0378\u0530 \ue000\uf8ff \U000f0000\U0010fffd \ufffe\uffff \ufdd0 \ufffd", "\u0c3c\u0301 \u0eba\u0301 \u1715\u0334 \U00011938 \U00011935\U00011930 \U000105d2\u0307 a\u0897\u0334",
        "\u0061\u05b0\u0300\u0315\u0307 \u0f71\u0f72\u0f74 \U0001d15e \U0002f800 \u2adc \ufb1d \u0958", "ＦＵＬＬ ｗｉｄｔｈ ｶﾞ ﷺ ㍿ ℃",
    ]
    out = [t.encode() for t in out]
    out += [
        b"\xff", b"a\xffb", b"\xc3", b"caf\xc3", b"\xc3\xa9\xc3", b"\xe2\x82", b"\xe2\x82x", b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80\x80", b"\xed\xa0\x80", b"\xed\xb0\x80\xed\xa0\xbd",
        b"\xc0\x80", b"\xe0\x80\xaf", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfe\xfe\xff\xff", b"ok \x80\x81\x82 ok", b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41",
    ]
    rng = random.Random(20240607)
    planes = [(0, 0xD7FF), (0xE000, 0xFFFF)] + [(p << 16, (p << 16) + 0xFFFF) for p in range(1, 17)]
    for first, last in planes:
        out.append("".join(chr(rng.randint(first, last)) for _ in range(40)).encode())
    pieces = ["the", "The", " ", "  ", "\n", "é", "e\u0301", "1", "23", "字", "'s", "!", "<|endoftext|>", "foo", "\t", "😀", "_", "-", "ﬁ", "\u00a0", "A", "ß", "한"]
    for _ in range(30):
        out.append("".join(rng.choice(pieces) for _ in range(rng.randint(3, 40))).encode())
    return out


def added(content, **flags):
    token = {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {**token, **flags}


def byte_level(**options):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True, **options}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(key, *items):
    return {"type": "Sequence", key: list(items)}


def template(first, ids):
    tokens = {first: {"id": first, "ids": ids, "tokens": [first] * len(ids)}}
    single = [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = single + [{"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def cases():
    """(name, base vocabulary, merge patch)"""
    raw = byte_level(use_regex=False)
    runs = [added(" " * n) for n in range(24, 1, -1)]
    flags = [
        added("<pad>", special=True, normalized=False), added("<mask>", special=True, normalized=False, lstrip=True),
        added("<strip>", lstrip=True, rstrip=True), added("foo", single_word=True), added("Bar", special=True, normalized=True),
    ]
    end = added("<|endoftext|>", special=True, normalized=False)
    lower = {"type": "Lowercase"}

    def pre(*items):
        return {"pre_tokenizer": sequence("pretokenizers", *items)}

    mark = "\u2581"
    llama = [
        {"type": "Replace", "pattern": {"String": mark}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    out = [
        ("gpt2", "bytes", {}),
        ("neox", "bytes", {"normalizer": {"type": "NFC"}, "added_tokens": [end] + runs}),
        ("prefix_space", "bytes", {"pre_tokenizer": byte_level(add_prefix_space=True)}),
        ("llama3", "bytes", {
            **pre(split(GPT4), raw), "model": {"ignore_merges": True},
            "post_processor": sequence("processors", byte_level(), template("<|endoftext|>", [0]))}),
        ("qwen", "bytes", {"normalizer": {"type": "NFC"}, **pre(split(QWEN), raw)}),
        ("o200k", "bytes", {**pre(split(O200K), raw), "truncation": {
            "direction": "Right", "max_length": 4096, "strategy": "LongestFirst", "stride": 0}}),
        ("bloom", "bytes", pre(split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), raw)),
        ("flags", "bytes", {"added_tokens": [end] + flags}),
        ("flags_lower", "bytes", {"normalizer": lower, "added_tokens": [end] + flags[:4]}),
        ("nfd", "bytes", {"normalizer": {"type": "NFD"}}),
        ("nfkc", "bytes", {"normalizer": {"type": "NFKC"}}),
        ("nfkd_lower", "bytes", {"normalizer": sequence("normalizers", {"type": "NFKD"}, lower)}),
        ("strip_replace", "bytes", {"normalizer": sequence(
            "normalizers", {"type": "Strip", "strip_left": True, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Replace", "pattern": {"String": "a"}, "content": "ä"}, {"type": "Prepend", "prepend": "> "})}),
        ("byte_normalizer", "bytes", {"normalizer": {"type": "ByteLevel"}, "pre_tokenizer": None,
                                      "added_tokens": [end, added("\u00e9t\u00e9")]}),
        ("no_splits", "bytes", {"pre_tokenizer": raw}),
        ("digits_punctuation", "bytes", pre(
            {"type": "Digits", "individual_digits": False}, {"type": "Punctuation", "behavior": "MergedWithPrevious"}, byte_level())),
        ("digits_one", "bytes", pre({"type": "Digits", "individual_digits": True}, {"type": "Punctuation"}, byte_level())),
        ("whitespace", "bytes", pre({"type": "Whitespace"}, raw)),
        ("whitespace_split", "bytes", pre({"type": "WhitespaceSplit"}, raw)),
        ("fixed_length", "bytes", pre({"type": "FixedLength", "length": 5}, {"type": "CharDelimiterSplit", "delimiter": "e"}, raw)),
        ("bytes_then_split", "bytes", pre(raw, split("\u0120", "MergedWithNext", kind="String"))),
        ("roberta", "bytes", {"post_processor": {
            "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False}}),
        ("bert", "bytes", {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 5], "cls": ["[CLS]", 4]}}),
        ("no_decoder", "bytes", {"decoder": None, "post_processor": None}),
    ]
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            name = f"split_{behavior}{'_inverted' if invert else ''}"
            out.append((name, "bytes", pre(split(r"\s|[aeiou]{2}|(?=\d)", behavior, invert), raw)))
        out.append((f"string_{behavior}", "bytes", pre(split("e", behavior, kind="String"), raw)))
    out += [
        ("metaspace", "characters", {}),
        ("metaspace_always", "characters", {
            "pre_tokenizer": {"type": "Metaspace", "replacement": mark, "prepend_scheme": "always", "split": False},
            "decoder": {"type": "Metaspace", "replacement": mark, "prepend_scheme": "always", "split": False}}),
        ("metaspace_first", "characters", {
            "added_tokens": [added("<unk>", special=True, normalized=False), added("foo", normalized=False), added("é")],
            "pre_tokenizer": {"type": "Metaspace", "replacement": mark, "prepend_scheme": "first", "split": True}}),
        ("metaspace_never", "characters", {
            "pre_tokenizer": {"type": "Metaspace", "replacement": mark, "prepend_scheme": "never", "split": True},
            "decoder": {"type": "Metaspace", "replacement": mark, "prepend_scheme": "never", "split": True}}),
        ("llama2", "characters", {
            "normalizer": sequence("normalizers", {"type": "Prepend", "prepend": mark},
                                   {"type": "Replace", "pattern": {"String": " "}, "content": mark}),
            "pre_tokenizer": None, "model": {"byte_fallback": True}, "decoder": sequence("decoders", *llama),
            "post_processor": template("<unk>", [0, 0])}),
        ("unknown", "characters", {"model": {"byte_fallback": False, "fuse_unk": False}}),
        ("unknown_fused", "characters", {"model": {"byte_fallback": False, "fuse_unk": True}}),
        ("unknown_dropped", "characters", {"model": {"byte_fallback": False, "unk_token": None}}),
        ("strip_decoder", "characters", {"decoder": sequence(
            "decoders", {"type": "Strip", "content": mark, "start": 1, "stop": 0},
            {"type": "Replace", "pattern": {"Regex": "[aeiou]"}, "content": "*"}, {"type": "Fuse"})}),
        ("suffix", "words", {}),
        ("suffix_unsplit", "words", {"pre_tokenizer": {"type": "WhitespaceSplit"}}),
    ]
    return out


def train(lines):
    def save(name, tokenizer):
        data = json.loads(tokenizer.to_str())
        (OUT / f"{name}.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False))
    save("bytes", t)

    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    # All bytes but a few, so that fallback is sometimes impossible.
    fallback = [f"<0x{b:02X}>" for b in range(256) if b not in (0xE3, 0x09)]
    t.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=700, limit_alphabet=80, special_tokens=["<unk>"] + fallback, show_progress=False))
    data = json.loads(t.to_str())
    data["added_tokens"] = data["added_tokens"][:1]  # the byte tokens belong to the model alone
    t = Tokenizer.from_str(json.dumps(data))
    save("characters", t)

    t = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##", end_of_word_suffix="</w>"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.decoder = decoders.BPEDecoder()
    t.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=400, limit_alphabet=60, special_tokens=["<unk>"], continuing_subword_prefix="##",
        end_of_word_suffix="</w>", show_progress=False))
    save("words", t)


def merge_patch(target, patch):
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


def instantiate(base, patch):
    data = merge_patch(base, patch)
    for token in data["added_tokens"]:
        token.setdefault("id", 0)
    # tokenizers numbers the tokens that the model lacks itself; the file then states what it does.
    ids = Tokenizer.from_str(json.dumps({"truncation": None, "padding": None, **data}))
    for token in data["added_tokens"]:
        token["id"] = ids.token_to_id(token["content"])
    return data


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def hash_ids(ids):
    return fnv(b"".join(i.to_bytes(4, "little") for i in ids))


def every_character():
    return "".join(chr(c) + ("a" if c % 3 == 0 else "") for c in range(0x110000) if not 0xD800 <= c < 0xE000)


def record(tokenizer, corpus, id_lists):
    lines = []
    for text in corpus:
        ids = tokenizer.encode(text.decode("utf-8", "replace")).ids
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        lines.append(f"{hash_ids(ids)[:6]} {fnv(decoded.encode())[:6]}")
    return {"texts": lines, "decoded": [
        fnv(tokenizer.decode(ids, skip_special_tokens=skip).encode())[:6] for ids in id_lists for skip in (False, True)]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", help="text to train the small vocabularies on")
    parser.add_argument("--neox", required=True, help="EleutherAI/gpt-neox-20b's tokenizer.json")
    parser.add_argument("--shakespeare", required=True, help="all of Tiny Shakespeare")
    args = parser.parse_args()

    OUT.mkdir(parents=True, exist_ok=True)
    corpus = texts()
    if args.train:
        lines = pathlib.Path(args.train).read_text()[:200_000].splitlines(keepends=True)
        train(lines + [t.decode("utf-8", "replace") for t in corpus] * 2)
    bases = {name: json.loads((OUT / f"{name}.json").read_text()) for name in ("bytes", "characters", "words")}
    rng = random.Random(7)
    id_lists = [[rng.randrange(0, 1050) for _ in range(rng.randint(1, 30))] for _ in range(24)]

    listed, expected = [], {}
    for name, base, patch in cases():
        data = instantiate(bases[base], patch)
        if "added_tokens" in patch:
            patch["added_tokens"] = data["added_tokens"]
        listed.append({"name": name, "base": base, "patch": patch})
        tokenizer = Tokenizer.from_str(json.dumps({"truncation": None, "padding": None, **data}))
        tokenizer.no_truncation()  # as transformers does, and we
        expected[name] = record(tokenizer, corpus, id_lists)
        if name == "gpt2":
            expected[name]["ids"] = [tokenizer.encode(t.decode("utf-8", "replace")).ids for t in corpus]
        if name in ("gpt2", "neox", "llama3", "o200k", "nfd", "nfkc", "nfkd_lower", "digits_one", "whitespace", "digits_punctuation"):
            ids = tokenizer.encode(every_character()).ids
            expected[name]["every_character"] = f"{len(ids)} {hash_ids(ids)}"

    tokenizer = Tokenizer.from_file(args.neox)
    entry = record(tokenizer, corpus, id_lists)
    entry["ids"] = [tokenizer.encode(t.decode("utf-8", "replace")).ids for t in corpus]
    for name, text in (("every_character", every_character()), ("shakespeare", pathlib.Path(args.shakespeare).read_text())):
        ids = tokenizer.encode(text).ids
        entry[name] = f"{len(ids)} {hash_ids(ids)}"
    expected["gpt-neox-20b"] = entry

    def write(name, value, **options):
        (OUT / name).write_text(json.dumps(value, ensure_ascii=True, **options) + "\n")

    write("corpus.json", {"texts_hex": [t.hex() for t in corpus], "id_lists": id_lists}, separators=(",", ":"))
    write("cases.json", listed, separators=(",", ":"))
    write("expected.json", expected, separators=(",", ":"))
    write("manifest.json", {"tokenizers": tokenizers.__version__, "made_by": "tools/make_golden_tokenizer.py",
                            "cases": len(listed), "texts": len(corpus)}, indent=1)


if __name__ == "__main__":
    main()
