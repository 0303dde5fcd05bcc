#!/usr/bin/env python3
"""Trains the small model under assets/ on Tiny Shakespeare and writes it in Hugging Face's layout.

  train_shipped_model.py compare TEXT --work DIR      the configurations below, side by side, on one GPU
  train_shipped_model.py train TEXT --work DIR --name NAME      one of them
  train_shipped_model.py export TEXT --work DIR --name NAME --out assets/shakespeare

The last tenth of the text is held out: neither the tokenizer nor the optimiser sees it; it decides which weights and
which configuration are kept. A million characters are few, so most of what is here works against overfitting: dropout,
weight decay, averaged weights, and segmentation noise (BPE dropout: each epoch cuts words into tokens differently;
towards the end the text is cut as it will be in use).
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

import mamba_scan

END = "<|endoftext|>"
HELD_OUT = 0.1

DEFAULTS = dict(
    vocab=1024, d_model=192, layers=8, state=16, expand=2, dropout=0.2, bpe_dropout=0.1, decay=0.3, rate=3e-3,
    steps=2500, batch=32, length=512, average=0.998, seed=1,
)
CONFIGURATIONS = {
    "base": {},
    "cut0": dict(bpe_dropout=0.0),
    "v512": dict(vocab=512),
    "v512cut0": dict(vocab=512, bpe_dropout=0.0),
    "drop3": dict(dropout=0.3),
    "deep": dict(d_model=160, layers=12),
    "wide": dict(d_model=256, layers=5, vocab=768),
    "short": dict(length=256, batch=64),
    "drop4": dict(dropout=0.4),
    "drop3w": dict(dropout=0.3, bpe_dropout=0.2, decay=1.0),
    "drop4w": dict(dropout=0.4, bpe_dropout=0.2, decay=0.6),
    "drop35deep": dict(dropout=0.35, bpe_dropout=0.15, decay=0.6, d_model=160, layers=12),
}


def split(path):
    text = Path(path).read_bytes().decode("utf-8")
    cut = int(len(text) * (1 - HELD_OUT))
    return text[:cut], text[cut:]


def make_tokenizer(text, vocab):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([text], trainer)
    assert tokenizer.get_vocab_size() == vocab and tokenizer.token_to_id(END) == 0
    return tokenizer


def segmentations(tokenizer, text, dropout, count):
    """The text as tokens: the proper cut first, then `count` noisy ones if there is dropout."""
    cuts = [tokenizer.encode(text).ids]
    assert tokenizer.decode(cuts[0], skip_special_tokens=False) == text
    if dropout > 0:
        noisy = Tokenizer.from_str(tokenizer.to_str())
        noisy.model.dropout = dropout
        cuts += [e.ids for e in noisy.encode_batch([text] * count)]
    return [np.array(ids, dtype=np.int64) for ids in cuts]


def make_model(c):
    config = MambaConfig(
        vocab_size=c["vocab"], hidden_size=c["d_model"], num_hidden_layers=c["layers"], state_size=c["state"],
        expand=c["expand"], bos_token_id=0, eos_token_id=0, pad_token_id=0, initializer_range=0.02,
    )
    model = MambaForCausalLM(config)
    # As the official implementation starts: PyTorch's own defaults for the projections, out_proj less with depth.
    # (rescale_prenorm_residual in the config would do the latter, but transformers 5.24 then also rescales the weights
    # that from_pretrained has just loaded, and the model reads as a worse one.)
    with torch.no_grad():
        for layer in model.backbone.layers:
            layer.mixer.in_proj.reset_parameters()
            layer.mixer.x_proj.reset_parameters()
            layer.mixer.out_proj.reset_parameters()
            layer.mixer.out_proj.weight /= math.sqrt(c["layers"])
    return model


class Batches:
    """Windows from random places of random cuts; one row in 16 starts where a speech starts, after END."""

    def __init__(self, cuts, tokenizer, c, device):
        newline = tokenizer.token_to_id("\u010a")
        self.length, self.batch, self.device = c["length"], c["batch"], device
        self.sizes = torch.tensor([len(cut) for cut in cuts], device=device)
        self.offsets = torch.cumsum(self.sizes, 0) - self.sizes
        self.tokens = torch.from_numpy(np.concatenate(cuts)).to(device)
        self.starts = []
        for offset, cut in zip(self.offsets.tolist(), cuts):
            after = np.flatnonzero((cut[:-1] == newline) & (cut[1:] == newline)) + 2
            after = after[after + self.length < len(cut)]
            self.starts.append(torch.from_numpy(after + offset).to(device))

    def draw(self, proper):
        """`proper`: the share of rows cut as in use."""
        count = len(self.sizes)
        which = torch.randint(min(1, count - 1), count, (self.batch,), device=self.device)
        which[torch.rand(self.batch, device=self.device) < proper] = 0
        at = (torch.rand(self.batch, device=self.device) * (self.sizes[which] - self.length - 1)).long()
        at += self.offsets[which]
        index = at[:, None] + torch.arange(self.length + 1, device=self.device)
        rows = self.tokens[index]
        for row in range(0, self.batch, 16):
            starts = self.starts[torch.randint(count, ()).item() if proper < 1 else 0]
            begin = starts[torch.randint(len(starts), (), device=self.device)]
            rows[row, 0] = 0
            rows[row, 1:] = self.tokens[begin + torch.arange(self.length, device=self.device)]
        return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def held_out_loss(model, ids, half=512):
    """Nats per token over windows that overlap by half; all but the first window count their second half only."""
    model.eval()
    count = len(ids)
    windows = max(1, math.ceil(count / half) - 1)
    padded = F.pad(F.pad(ids, (1, 0)), (0, (windows + 1) * half - count))  # END first, so every token is predicted
    rows = padded.unfold(0, 2 * half + 1, half)
    places = torch.arange(1, len(padded), device=ids.device).unfold(0, 2 * half, half)
    wanted = places <= count
    wanted[1:, :half] = False
    nats = 0.0
    for row, want in zip(rows.split(16), wanted.split(16)):
        logits = mamba_scan.forward(model, row[:, :-1])
        nats += F.cross_entropy(logits[want], row[:, 1:][want], reduction="sum").item()
    assert wanted.sum() == count
    model.train()
    return nats / count


def parameter_groups(model, decay):
    """No decay for A_log, D, norms and biases."""
    still = [p for n, p in model.named_parameters() if p.ndim == 1 or n.endswith("A_log")]
    moving = [p for n, p in model.named_parameters() if not (p.ndim == 1 or n.endswith("A_log"))]
    return [{"params": moving, "weight_decay": decay}, {"params": still, "weight_decay": 0.0}]


def train(arguments):
    began = time.time()
    c = {**DEFAULTS, **CONFIGURATIONS[arguments.name]}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(c["seed"])
    torch.backends.cuda.matmul.allow_tf32 = True
    text, rest = split(arguments.text)
    tokenizer = make_tokenizer(text, c["vocab"])
    work = Path(arguments.work) / arguments.name
    work.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(work / "tokenizer.json"))
    batches = Batches(segmentations(tokenizer, text, c["bpe_dropout"], arguments.cuts), tokenizer, c, device)
    held_out = torch.tensor(segmentations(tokenizer, rest, 0, 0)[0], device=device)
    bits = len(held_out) / len(rest.encode("utf-8")) / math.log(2)  # nats per token -> bits per byte

    model = make_model(c).to(device).train()
    averaged = make_model(c).to(device)
    averaged.load_state_dict(model.state_dict())
    different = mamba_scan.check(model, torch.arange(40, device=device)[None])
    assert different[0] < 1e-2 and different[1] < 1e-4, different  # TF32 and two orders of summation
    optimizer = torch.optim.AdamW(parameter_groups(model, c["decay"]), betas=(0.9, 0.98), fused=device == "cuda")
    record = dict(
        name=arguments.name, configuration=c, device=device, different=different, curve=[],
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=batches.sizes.tolist()[:1] + [len(held_out)], held_out_bytes=len(rest.encode("utf-8")),
    )
    setup = time.time()
    best, step, progress, recent = math.inf, 0, 0.0, []
    while progress < 1:
        # Time counts as well as steps, so that a slow machine still sees the whole schedule.
        progress = max(step / c["steps"], (time.time() - setup) / (60 * arguments.minutes - (setup - began)))
        rate = c["rate"] * min(1, step / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = batches.draw(1.0 if progress > 0.85 else 0.25)
        logits = mamba_scan.forward(model, inputs, c["dropout"])
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            share = min(c["average"], step / (step + 10))
            torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - share)
        recent.append(loss.detach())
        if step % arguments.every == 0 or progress >= 1:
            now = held_out_loss(averaged, held_out)
            seen = torch.stack(recent).mean().item()
            record["curve"].append([step, round(time.time() - began, 1), rate, seen, now, now * bits])
            print(
                f"{arguments.name} step {step} at {time.time() - began:.0f} s: training loss {seen:.4f}, "
                f"held out {now:.4f} nats/token, {now * bits:.4f} bits/byte", flush=True,
            )
            recent = []
            if now < best:
                best = now
                record.update(best_step=step, best=now, best_bits_per_byte=now * bits)
                averaged.save_pretrained(work)
                (work / "record.json").write_text(json.dumps(record))
    (work / "record.json").write_text(json.dumps(record))


def compare(arguments):
    """All configurations as processes that share the machine; prints a table, best first."""
    work = Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    names = arguments.names or list(CONFIGURATIONS)
    running = []
    for name in names:
        log = open(work / f"{name}.log", "w")
        command = [sys.executable, __file__, "train", arguments.text, "--work", str(work), "--name", name]
        command += ["--minutes", str(arguments.minutes), "--cuts", str(arguments.cuts)]
        running.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
    for process in running:
        process.wait()
    records = [json.loads(path.read_text()) for path in work.glob("*/record.json")]
    records.sort(key=lambda r: r["best_bits_per_byte"])
    print(f"{'name':10} {'bits/byte':>9} {'nats/token':>10} {'parameters':>10} {'best step':>9} {'steps':>6} {'s':>5}")
    for r in records:
        print(
            f"{r['name']:10} {r['best_bits_per_byte']:9.4f} {r['best']:10.4f} {r['parameters']:10d} "
            f"{r['best_step']:9d} {r['curve'][-1][0]:6d} {r['curve'][-1][1]:5.0f}"
        )
    (work / "table.json").write_text(json.dumps(records))


CARD = """---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
---
# Shakespeare, a small Mamba

The model that `mlx-mamba generate` uses when no other is named: a Mamba language model of {parameters:,} parameters
(float32, {megabytes:.1f} MB) that writes something like Shakespeare's plays. It exists so that a fresh clone can write
text, and be tested, without a network.

| | |
|---|---|
| architecture | Mamba, {layers} layers, width {d_model}, state {state}, convolution 4, expansion {expand}, tied embeddings |
| tokenizer | byte-level BPE, {vocab} tokens, lossless; id 0 is `<|endoftext|>` (end, begin and padding) |
| trained on | the first 90 % of Tiny Shakespeare: {train_tokens:,} tokens, about {epochs:.0f} times over |
| held out | the last 10 %: {bytes:,} bytes, {held_tokens:,} tokens |
| **held-out loss** | **{loss:.4f} nats per token, {bits:.4f} bits per byte** (one pass over all of it from an empty state) |

## How it was made

`tools/train_shipped_model.py` with PyTorch on one GPU, {seconds:.0f} seconds, {steps} steps of {batch} x {length} tokens
(four such runs shared the GPU); AdamW, peak rate {rate}, cosine schedule, weight decay {decay} on the matrices,
dropout {dropout} on the embedding and on each residual branch, BPE dropout {bpe_dropout} until the last 15 % of the
steps, exponentially averaged weights. The tokenizer was trained on the same 90 %. Held-out loss chose both the
configuration and the moment to stop, so it is a little flattering as an estimate for other plays.

The configurations that were compared, lower is better. They ran in two groups of three and a half minutes, eight side
by side and then four, hence the different numbers of steps:

| name | bits/byte | steps in its time | what differs from the defaults |
|---|---|---|---|
{table}
A character model of 10 million parameters (nanoGPT's example) is reported at about 2.12 bits per byte on this split.

## Sample

Prompt `{prompt}`, temperature 0.8:

```text
{sample}
```

## Limits

It knows one million characters of one author: the names, the metre and the look of a page are there, the sense seldom
lasts longer than a line. It is no source of facts, has seen no other language or period, and repeats the attitudes of
its time. `<|endoftext|>` begins a text in training and never ends one, so generation runs until its token limit.

## Data and licence

Tiny Shakespeare (A. Karpathy's excerpt, 1,115,394 bytes) collects plays of William Shakespeare, which are in the
public domain. The weights, the tokenizer and this card are under the repository's MIT licence.
"""


def export(arguments):
    work, out = Path(arguments.work) / arguments.name, Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    records = json.loads((Path(arguments.work) / "table.json").read_text())
    record = json.loads((work / "record.json").read_text())
    c = record["configuration"]
    model = make_model(c).eval()
    weights = load_file(work / "model.safetensors")
    missing = model.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys and missing.missing_keys == ["lm_head.weight"], missing
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    (out / "tokenizer.json").write_text((work / "tokenizer.json").read_text())
    special = dict(bos_token=END, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False)
    write_json(out / "tokenizer_config.json", dict(tokenizer_class="PreTrainedTokenizerFast", **special))
    sampling = dict(do_sample=True, temperature=0.8, top_k=0)
    write_json(out / "generation_config.json", dict(bos_token_id=0, eos_token_id=0, pad_token_id=0, **sampling))

    # From here on only what another program would see: the folder, opened by transformers.
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())
    text, rest = split(arguments.text)
    ids = torch.tensor([[0] + tokenizer(rest).input_ids])
    assert tokenizer.decode(ids[0, 1:]) == rest
    # transformers' own forward is checked on a piece, the figure taken with the faster one.
    with torch.no_grad():
        difference = (model(ids[:, :300]).logits - mamba_scan.forward(model, ids[:, :300])).abs().max().item()
        assert difference < 1e-4, difference
        loss = F.cross_entropy(mamba_scan.forward(model, ids[:, :-1])[0], ids[0, 1:]).item()
    bits = loss * (ids.shape[1] - 1) / math.log(2) / len(rest.encode("utf-8"))
    prompt = "ROMEO:\n"
    torch.manual_seed(5)
    drawn = model.generate(torch.tensor([tokenizer(prompt).input_ids]), max_new_tokens=200)
    table = "".join(
        f"| {r['name']} | {r['best_bits_per_byte']:.4f} | {r['curve'][-1][0]} | "
        + (", ".join(f"{k} {v}" for k, v in CONFIGURATIONS[r["name"]].items()) or "nothing") + " |\n"
        for r in records
    )
    (out / "README.md").write_text(
        CARD.format(
            **{**c, "steps": record["best_step"]}, table=table, loss=loss, bits=bits,
            prompt=prompt.replace("\n", "\\n"),
            sample=tokenizer.decode(drawn[0]).rstrip(), parameters=record["parameters"], bytes=record["held_out_bytes"],
            megabytes=(out / "model.safetensors").stat().st_size / 1e6, seconds=record["curve"][-1][1],
            train_tokens=record["tokens"][0], held_tokens=record["tokens"][1],
            epochs=record["best_step"] * c["batch"] * c["length"] / record["tokens"][0],
        )
    )
    print(f"{out}: {loss:.4f} nats/token, {bits:.4f} bits/byte in one pass; logits differ by {difference:.2g}")
    total = sum(path.stat().st_size for path in out.iterdir())
    assert total < 10_000_000, total


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["compare", "train", "export"])
    parser.add_argument("text")
    parser.add_argument("--work", required=True, help="folder for weights and records")
    parser.add_argument("--name", choices=list(CONFIGURATIONS))
    parser.add_argument("--names", nargs="*", choices=list(CONFIGURATIONS), help="compare: only these")
    parser.add_argument("--minutes", type=float, default=60, help="the schedule ends by then")
    parser.add_argument("--cuts", type=int, default=16, help="noisy segmentations of the text to draw from")
    parser.add_argument("--every", type=int, default=100, help="steps between looks at the held-out text")
    parser.add_argument("--out", help="export: the model's folder")
    arguments = parser.parse_args()
    {"compare": compare, "train": train, "export": export}[arguments.task](arguments)


if __name__ == "__main__":
    main()
