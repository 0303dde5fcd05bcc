#!/usr/bin/env python3
"""The official CUDA implementation's side of the GPU table: one line of JSON for each figure.

    bench/peers/install_official build/official
    bench/peers/official_cuda.py build/official [FILTER...]

The same work as `gpu_report bench` (tests/gpu/run), under the same names: selective scans with softplus, D and gate; steps of
mamba-130m's shape with AdamW on 8 x 1024 tokens; a prompt of 2048; 100 tokens after a prompt of 100, greedy, with CUDA graphs, as
in its own benchmark, for 130m's and 1.4b's shape. A FILTER is a part of the names that are measured.
"""
import gc
import glob
import json
import os
import statistics
import sys
import time

import torch

SHAPES = {"130m": (24, 768), "1.4b": (48, 2048)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SCANS = [(8, 2048, 4096, "float32"), (8, 2048, 4096, "bfloat16"), (1, 2048, 1536, "float32"), (8, 512, 1536, "float32"),
         (1, 65536, 1536, "bfloat16")]


def seconds(run, repeats, rounds=7):
    """Median seconds of a run, of `repeats` in a row without waiting in between."""
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / repeats)
    return statistics.median(times)


def scan(batch, length, channels, dtype):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    def normal(*shape, dtype=DTYPES[dtype], mean=0.0, scale=1.0):
        return (mean + scale * torch.randn(*shape, device="cuda")).to(dtype).requires_grad_()

    states = 16
    u, z = normal(batch, channels, length), normal(batch, channels, length)
    delta = normal(batch, channels, length, mean=-1.0)
    A = (-torch.arange(1.0, 1 + states, device="cuda")).repeat(channels, 1).requires_grad_()
    B, C = normal(batch, states, length), normal(batch, states, length)
    D = normal(channels, dtype=torch.float32)
    bias = normal(channels, dtype=torch.float32, mean=-2.0, scale=0.5)
    gradient = torch.randn(batch, channels, length, device="cuda").to(DTYPES[dtype])
    inputs = [u, delta, A, B, C, D, z, bias]

    def forward():
        return selective_scan_fn(u, delta, A, B, C, D, z, bias, True)

    def without_gradients():
        with torch.no_grad():
            forward()

    repeats = 10 if batch * length * channels > 10 << 20 else 30
    figures = {"forward_ms": 1e3 * seconds(without_gradients, repeats),
               "forward_backward_ms": 1e3 * seconds(lambda: torch.autograd.grad(forward(), inputs, gradient), repeats)}
    torch.cuda.reset_peak_memory_stats()
    torch.autograd.grad(forward(), inputs, gradient)
    figures["forward_backward_peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return figures


def random_model(shape, dtype):
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    layers, width = SHAPES[shape]
    torch.manual_seed(1)
    return MambaLMHeadModel(MambaConfig(d_model=width, n_layer=layers, vocab_size=50280, ssm_cfg={"layer": "Mamba1"}),
                            device="cuda", dtype=dtype)


def training(dtype):
    model = random_model("130m", torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(0, 50280, (8, 1025), device="cuda")
    torch.cuda.reset_peak_memory_stats()

    def step():
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(tokens[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    tokens_per_second = tokens[:, 1:].numel() / seconds(step, 5, 5)
    return {"tokens_per_second": tokens_per_second, "peak_mb": torch.cuda.max_memory_allocated() / 1e6}


@torch.inference_mode()
def prompt(dtype):
    from mamba_ssm.utils.generation import InferenceParams

    model = random_model("130m", DTYPES[dtype]).eval()
    tokens = torch.randint(0, 50000, (1, 2048), device="cuda")
    return {"tokens_per_second": 2048 / seconds(lambda: model(tokens, num_last_tokens=1, inference_params=InferenceParams(
        max_seqlen=2048, max_batch_size=1)), 1)}


@torch.inference_mode()
def generation(shape, dtype, batch):
    model = random_model(shape, DTYPES[dtype]).eval()
    tokens = torch.full((batch, 100), 17, device="cuda")

    def run(new):
        return seconds(lambda: model.generate(tokens, max_length=100 + new, cg=True, top_k=1, return_dict_in_generate=True), 1, 5)

    whole, first = run(100), run(1)
    return {"tokens_per_second": 99 * batch / (whole - first), "with_prompt_tokens_per_second": 100 * batch / whole}


def main():
    folder, filters = sys.argv[1], sys.argv[2:]
    sys.path[:0] = [os.path.abspath(package) for package in glob.glob(os.path.join(folder, "*-*/"))]
    torch.backends.cuda.matmul.allow_tf32 = False
    work = {f"generation {shape} batch {batch} {dtype}": (generation, shape, dtype, batch)
            for shape in SHAPES for batch in (1, 64) for dtype in ("bfloat16", "float32") if (shape, dtype) != ("1.4b", "float32")}
    work |= {f"scan B{b} L{length} D{d} {dtype}": (scan, b, length, d, dtype) for b, length, d, dtype in SCANS}
    work |= {f"prompt 130m 2048 {dtype}": (prompt, dtype) for dtype in DTYPES}
    work |= {f"training 130m 8 x 1024 {dtype}": (training, dtype) for dtype in DTYPES}
    for name, (measure, *arguments) in work.items():
        if filters and not any(part in name for part in filters):
            continue
        line = {"part": "official", "name": name}
        try:
            line |= measure(*arguments)
        except Exception as error:  # one figure that cannot be had costs no other
            line["error"] = repr(error)[:300]
        print(json.dumps(line), flush=True)
        gc.collect()  # a model with graphs of its steps refers to itself
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
