#!/usr/bin/env python3
"""Golden models from transformers' MambaForCausalLM: tests/golden/models/ and tests/golden/sampling.json.

  make_golden_models.py               writes both; takes a minute
  make_golden_models.py --big DIR     a model of mamba-130m's shape instead (520 MB), for a comparison by hand

tests/golden/models/README.md says what the files hold. Weights are random but not as at initialisation: every kind of
parameter is away from its starting value, so that a swapped sign, a missing bias or a forgotten D shows.

    pip install -r tools/requirements.txt
"""

import argparse
import json
import math
import platform
from pathlib import Path

import numpy
import safetensors
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM
from transformers.generation import logits_process as processors

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "golden" / "models"
SHAPES = {"a": (1, 1), "b": (3, 2), "c": (2, 63), "d": (1, 200)}

CASES = {
    "base": dict(hidden_size=20, vocab_size=24, num_hidden_layers=2),
    "state8_conv2_untied": dict(
        hidden_size=18, vocab_size=23, num_hidden_layers=3, state_size=8, conv_kernel=2, tie_word_embeddings=False
    ),
    "state32": dict(hidden_size=12, vocab_size=20, num_hidden_layers=2, state_size=32, residual_in_fp32=False),
    "odd37": dict(hidden_size=37, vocab_size=17, num_hidden_layers=2, state_size=8, expand=1, time_step_rank=3),
    "odd45": dict(
        hidden_size=45, vocab_size=19, num_hidden_layers=1, expand=1, time_step_rank=5, use_bias=True, conv_kernel=2,
        tie_word_embeddings=False,
    ),
    "expand3_biases": dict(
        hidden_size=14, vocab_size=22, num_hidden_layers=2, expand=3, use_bias=True, use_conv_bias=False,
        tie_word_embeddings=False, residual_in_fp32=False, time_step_rank=4,
    ),
    "deep": dict(hidden_size=12, vocab_size=24, num_hidden_layers=4, layer_norm_epsilon=1e-3),
}


def random_model(seed, **shape):
    torch.manual_seed(seed)
    model = MambaForCausalLM(MambaConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0, **shape)).eval()
    rank = model.config.time_step_rank
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn_like(p)
            if name.endswith("A_log"):
                p.copy_(torch.arange(1, p.shape[1] + 1).log() + 0.3 * noise)
            elif name.endswith("mixer.D"):
                p.copy_(1 + 0.5 * noise)
            elif name.endswith("norm.weight") or name.endswith("norm_f.weight"):
                p.copy_(1 + 0.3 * noise)
            elif name.endswith("dt_proj.bias"):
                step = torch.exp(torch.rand_like(p) * math.log(0.5 / 0.003) + math.log(0.003))
                p.copy_(step + torch.log(-torch.expm1(-step)))
            elif name.endswith("dt_proj.weight"):
                p.copy_(noise * rank**-0.5)
            elif name.endswith("embeddings.weight"):
                p.copy_(0.3 * noise)
            elif name.endswith("bias"):
                p.copy_(0.3 * noise)
            elif name.endswith("conv1d.weight"):
                p.copy_(noise * p.shape[-1] ** -0.5)
            elif name.endswith("lm_head.weight"):
                p.copy_(3 * noise * p.shape[-1] ** -0.5)
            else:
                p.copy_(1.2 * noise * p.shape[-1] ** -0.5)
    return model


def tokens_for(model, shape, seed, vocab=None):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab or model.config.vocab_size, shape, generator=generator)


@torch.no_grad()
def greedy(model, prompt, count):
    """`count` tokens after each prompt, and per row the least distance of best and second best logit on the way."""
    sequence, margin = prompt, torch.full((prompt.shape[0],), math.inf)
    for _ in range(count):
        top = model(sequence, use_cache=False).logits[:, -1].topk(2)
        margin = torch.minimum(margin, top.values[:, 0] - top.values[:, 1])
        sequence = torch.cat([sequence, top.indices[:, :1]], dim=1)
    return sequence[:, prompt.shape[1] :], margin


def lively_prompts(model, seed):
    """Of 48 prompts the two whose continuations vary most, among those that do not hang on rounding."""
    prompts = tokens_for(model, (48, 5), seed)
    continuations, margins = greedy(model, prompts, 20)
    variety = [len(set(row.tolist())) if margin > 2e-3 else 0 for row, margin in zip(continuations, margins)]
    best = torch.tensor(variety).topk(2)
    assert best.values.min() > 2, variety
    margin, least = margins[best.indices].min().item(), best.values.min().item()
    return prompts[best.indices], continuations[best.indices], margin, least


def assert_generate_agrees(model, prompt, continuation):
    model.generation_config.eos_token_id = None  # else it fills the gap in the configuration passed below
    config = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=continuation.shape[1], eos_token_id=None, pad_token_id=0
    )
    cached = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    assert torch.equal(cached[:, prompt.shape[1] :], continuation)


@torch.no_grad()
def outputs(model, seed):
    golden = {}
    for name, shape in SHAPES.items():
        tokens = tokens_for(model, shape, seed + shape[1])
        result = model(tokens, use_cache=False, output_hidden_states=True)
        golden[f"{name}.tokens"], golden[f"{name}.logits"] = tokens, result.logits
        if name == "b":
            for layer, hidden in enumerate(result.hidden_states[:-1]):
                golden[f"b.hidden.{layer}"] = hidden
            golden["b.hidden.final"] = result.hidden_states[-1]
    half = MambaForCausalLM(model.config).to(torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    golden["c.logits_bfloat16"] = half(golden["c.tokens"], use_cache=False).logits
    return golden


def train_ten_steps(model, seed):
    """Loss and gradients of one batch, then the losses of ten AdamW steps, each taken before its step."""
    rows = tokens_for(model, (10, 3, 22), seed + 1000)
    still = [p for n, p in model.named_parameters() if no_decay(n)]
    moving = [p for n, p in model.named_parameters() if not no_decay(n)]
    groups = [{"params": moving, "weight_decay": 0.1}, {"params": still, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    golden, losses = {"train.tokens": rows}, []
    for step, row in enumerate(rows):
        logits = model(row[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), row[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            golden |= {f"grad.{n}": p.grad.clone() for n, p in model.named_parameters()}
        losses.append(loss.detach())
        optimizer.step()
    golden["train.losses"] = torch.stack(losses)
    return golden


def no_decay(name):
    return name.endswith(("A_log", ".D", "norm.weight", "norm_f.weight", "bias"))


def save(path, tensors):
    stored = {n: (t.int() if t.dtype == torch.int64 else t).contiguous() for n, t in tensors.items()}
    save_file(stored, path, metadata={"format": "pt"})
    path.chmod(0o644)


def save_model(model, folder):
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = ["MambaForCausalLM"]
    model.config.dtype = "float32"
    (folder / "config.json").write_text(model.config.to_json_string())
    state = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    save(folder / "model.safetensors", state)
    again = MambaForCausalLM.from_pretrained(folder)
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in model.state_dict().items())


def save_state_spaces(model, folder, vocab_size):
    """The layout of the state-spaces repositories: both tied tensors are in the file, and share their storage."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    assert config.tie_word_embeddings and config.state_size == 16 and config.conv_kernel == 4 and config.expand == 2
    fields = dict(d_model=config.hidden_size, n_layer=config.num_hidden_layers, vocab_size=vocab_size, ssm_cfg={})
    fields |= dict(rms_norm=True, residual_in_fp32=True, fused_add_norm=True, pad_vocab_size_multiple=8)
    (folder / "config.json").write_text(json.dumps(fields, indent=4) + "\n")
    state = {n.replace("embeddings.", "embedding."): v for n, v in model.state_dict().items()}
    assert state["lm_head.weight"].data_ptr() == state["backbone.embedding.weight"].data_ptr()
    torch.save({n: v.detach() for n, v in state.items()}, folder / "pytorch_model.bin")


def make_case(name, shape, seed):
    model = random_model(seed, **shape)
    golden = outputs(model, seed)
    golden["greedy.prompt"], golden["greedy.tokens"], margin, variety = lively_prompts(model, seed + 500)
    assert_generate_agrees(model, golden["greedy.prompt"], golden["greedy.tokens"])
    save_model(model, FOLDER / name)
    if name == "base":
        save_state_spaces(model, FOLDER / "state_spaces", shape["vocab_size"])
        save(FOLDER / "state_spaces" / "golden.safetensors", {n: golden[n] for n in ("c.tokens", "c.logits")})
    largest = golden["c.logits"].abs().max().item()
    golden |= train_ten_steps(model, seed)
    save(FOLDER / name / "golden.safetensors", golden)
    bits = (golden["c.logits_bfloat16"] - golden["c.logits"]).abs()
    print(
        f"{name:20} {sum(p.numel() for p in model.parameters()):6d} parameters, logits to {largest:.1f}, "
        f"margin {margin:.3f}, {variety} kinds, "
        f"bfloat16 off by {bits.max():.3f}, losses {golden['train.losses'][0]:.3f} to {golden['train.losses'][-1]:.3f}"
    )


def make_padded(seed):
    """A vocabulary of 21 whose matrices have 24 rows, as the state-spaces files do it."""
    model = random_model(seed, hidden_size=17, vocab_size=24, num_hidden_layers=2)
    tokens = tokens_for(model, (2, 63), seed, vocab=21)
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits
    save_state_spaces(model, FOLDER / "state_spaces_padded", 21)
    save(FOLDER / "state_spaces_padded" / "golden.safetensors", {"c.tokens": tokens, "c.logits": logits})


@torch.no_grad()
def make_long(seed):
    """2,000 tokens in float32 and bfloat16, logits at every 50th place: does the error grow?"""
    model = random_model(seed, hidden_size=24, vocab_size=32, num_hidden_layers=2)
    tokens = tokens_for(model, (1, 2000), seed)
    half = MambaForCausalLM(model.config).to(torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    golden = {"tokens": tokens, "places": torch.arange(49, 2000, 50)}
    golden["logits"] = model(tokens, use_cache=False).logits[0, 49::50]
    golden["logits_bfloat16"] = half(tokens, use_cache=False).logits[0, 49::50]
    save_model(model, FOLDER / "long")
    save(FOLDER / "long" / "golden.safetensors", golden)
    error = (golden["logits"] - golden["logits_bfloat16"]).abs().amax(1)
    print(f"long: bfloat16 off by {error[:10].mean():.3f} in the first quarter, {error[-10:].mean():.3f} in the last")


@torch.no_grad()
def make_shipped():
    folder = ROOT / "assets" / "shakespeare"
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    golden = {}
    text = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n"
    text += "ROMEO:\nIs the day so young?\n"
    golden["tokens"] = torch.tensor([[0] + tokenizer(text * 3).input_ids])
    logits = model(golden["tokens"], use_cache=False).logits
    places = torch.arange(0, golden["tokens"].shape[1], 10)
    golden["places"], golden["logits"] = places, logits[0, places]
    golden["nats"] = F.cross_entropy(logits[0, :-1], golden["tokens"][0, 1:], reduction="none")
    margins = []
    prompts = ["ROMEO:\n", "KING RICHARD III:\nNow", "O", "JULIET:\nGood night", "GLOUCESTER:\nMy lord", "Nurse:\n"]
    prompts += ["What"]
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt).input_ids])
        found, margin = greedy(model, ids, 100)
        if margin.item() > 2e-3 and len(margins) < 4:  # else rounding could choose
            assert_generate_agrees(model, ids, found)
            golden[f"greedy.{len(margins)}.prompt"], golden[f"greedy.{len(margins)}.tokens"] = ids, found
            margins.append(margin.item())
    assert len(margins) == 4, margins
    (FOLDER / "shipped").mkdir(parents=True, exist_ok=True)
    save(FOLDER / "shipped" / "golden.safetensors", golden)
    print(f"shipped: {golden['tokens'].shape[1]} tokens, least margins {[round(m, 4) for m in margins]}")


def make_sampling():
    """What transformers' warpers, in generate()'s order, leave of a distribution."""
    spread = [2.0, -1.0, 0.5, 3.25, 0.5, -4.0, 1.75, 0.0, -0.5, 2.5, 0.5, 1.0]
    below = [-1.5, -3.0, -0.25, -2.0, -8.0, -0.75]
    level = [0.0] * 5
    settings = [{}, {"temperature": 0.7}, {"temperature": 2.5}, {"temperature": 0.05}]
    settings += [{"top_k": k} for k in (1, 3, 5, 100)]
    settings += [{"top_p": p} for p in (1e-6, 0.3, 0.6, 0.9, 0.999)]
    settings += [{"min_p": p} for p in (0.02, 0.1, 0.4, 1.0)]
    settings += [{"repetition_penalty": r} for r in (1.3, 2.0, 0.8)]
    settings += [
        {"temperature": 0.8, "top_k": 6}, {"temperature": 0.8, "top_p": 0.7}, {"temperature": 1.5, "top_p": 0.7},
        {"top_k": 4, "top_p": 0.75}, {"top_p": 0.85, "min_p": 0.2}, {"temperature": 1.4, "min_p": 0.2},
        {"top_k": 3, "min_p": 0.3}, {"repetition_penalty": 1.5, "top_k": 3}, {"repetition_penalty": 1.5, "top_p": 0.6},
        {"repetition_penalty": 1.2, "temperature": 0.6, "top_k": 7, "top_p": 0.9, "min_p": 0.05},
        {"repetition_penalty": 0.7, "temperature": 1.7, "top_k": 5, "top_p": 0.65, "min_p": 0.15},
    ]
    model = random_model(1, hidden_size=8, vocab_size=12, num_hidden_layers=1)
    cases = []
    for logits, previous in ((spread, [3, 9, 3, 1, 7]), (below, [2, 4]), (level, [1])):
        for setting in settings:
            chain = warpers(setting)
            assert_order(model, setting, chain)
            scores = apply(chain, previous, logits)
            if hangs_on_rounding(setting, previous, logits):
                continue
            probabilities = scores.double().softmax(-1)[0].tolist()
            cases.append(dict(logits=logits, previous=previous, settings=setting, probabilities=probabilities))
    lines = ",\n    ".join(json.dumps(case) for case in cases)
    text = f'{{\n  "versions": {json.dumps(versions())},\n  "cases": [\n    {lines}\n  ]\n}}\n'
    (FOLDER.parent / "sampling.json").write_text(text)
    print(f"sampling: {len(cases)} distributions")


def warpers(setting):
    kinds = dict(
        repetition_penalty=processors.RepetitionPenaltyLogitsProcessor, temperature=processors.TemperatureLogitsWarper,
        top_k=processors.TopKLogitsWarper, top_p=processors.TopPLogitsWarper, min_p=processors.MinPLogitsWarper,
    )
    return [kind(setting[name]) for name, kind in kinds.items() if name in setting]


def apply(chain, previous, logits):
    scores = torch.tensor([logits])
    for one in chain:
        scores = one(torch.tensor([previous]), scores)
    return scores


def hangs_on_rounding(setting, previous, logits):
    """Whether a hair's breadth in a threshold, or the order in which equal logits are sorted, changes what is kept."""
    kept = apply(warpers(setting), previous, logits).isfinite()
    for name in ("top_p", "min_p"):
        for shift in (-1e-6, 1e-6):
            if name in setting and 0 < setting[name] + shift < 1:
                moved = setting | {name: setting[name] + shift}
                if not torch.equal(apply(warpers(moved), previous, logits).isfinite(), kept):
                    return True
    unfiltered = {n: v for n, v in setting.items() if n in ("repetition_penalty", "temperature")}
    scores = apply(warpers(unfiltered), previous, logits)[0]
    return any(kept[0][scores == value].unique().numel() > 1 for value in scores)


def assert_order(model, setting, chain):
    off = dict(top_k=0, top_p=1.0, temperature=1.0, num_beams=1)
    config = transformers.GenerationConfig(do_sample=True, **{**off, **setting})
    real = model._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
    assert [type(one) for one in real] == [type(one) for one in chain], (setting, real)


def versions():
    modules = (torch, transformers, tokenizers, safetensors, numpy)
    return {"python": platform.python_version()} | {m.__name__: m.__version__.split("+")[0] for m in modules}


def make_big(folder):
    model = random_model(130, hidden_size=768, vocab_size=50280, num_hidden_layers=24)
    with torch.no_grad():
        model.backbone.embeddings.weight *= 0.1  # logits of 1 to 10 at this width
    tokens = tokens_for(model, (1, 64), 130)
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits
    save_model(model, folder)
    save_state_spaces(model, folder / "state_spaces", 50277)
    save(folder / "golden.safetensors", {"tokens": tokens, "logits": logits})
    print(f"{folder}: logits to {logits.abs().max():.2f}; compare within 2e-4")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--big", type=Path, metavar="DIR", help="write the model of mamba-130m's shape there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.big:
        return make_big(arguments.big)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed, (name, shape) in enumerate(CASES.items()):
        make_case(name, shape, 10 * seed + 1)
    make_padded(100)
    make_long(200)
    make_shipped()
    make_sampling()
    (FOLDER / "manifest.json").write_text(json.dumps(dict(versions=versions(), cases=list(CASES)), indent=2) + "\n")


if __name__ == "__main__":
    main()
