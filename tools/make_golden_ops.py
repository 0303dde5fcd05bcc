#!/usr/bin/env python3
"""Golden cases of the ops, with gradients, from PyTorch in float64: writes tests/golden/ops/*.safetensors.

Each op is written down here a second time, in the most literal form: one sequence, one position at a time; padding is
cut away and documents are run one by one. Inputs are float32, results are computed in float64 and stored as float32.
Names are "<case>.in.<argument>", "<case>.out.<result>", "<case>.cotangent.<result>" and "<case>.grad.<argument>", the
gradients being those of sum(result * cotangent) over all results.

    pip install torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
    python tools/make_golden_ops.py
"""

import pathlib

import torch
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "ops"


def documents(begin, end, resets):
    """[begin, end) cut before every position where resets is not 0; True where the state carries over."""
    starts = [t for t in range(begin, end) if resets is not None and resets[t] != 0]
    bounds = sorted({begin, *starts, end})
    return [(a, b, a not in starts) for a, b in zip(bounds, bounds[1:])]


def scan_document(u, delta, A, B, C, D, z, delta_bias, state, softplus):
    rows = []
    for t in range(u.shape[0]):
        dt = delta[t] + (delta_bias if delta_bias is not None else 0)
        if softplus:
            dt = torch.nn.functional.softplus(dt)
        state = torch.exp(dt[:, None] * A) * state + (dt * u[t])[:, None] * B[t][None, :]
        y = state @ C[t] + (D * u[t] if D is not None else 0)
        rows.append(y * torch.nn.functional.silu(z[t]) if z is not None else y)
    return torch.stack(rows), state


def selective_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, initial_state=None, spans=None, resets=None,
                   softplus=1):
    batch, length, channels = u.shape
    ys, states = [], []
    for b in range(batch):
        begin, end = (0, length) if spans is None else (max(0, int(spans[b, 0])), min(length, int(spans[b, 1])))
        state = torch.zeros_like(A) if initial_state is None else initial_state[b]
        parts = [torch.zeros(begin, channels, dtype=u.dtype)]
        for first, last, carry in documents(begin, end, None if resets is None else resets[b]):
            y, state = scan_document(u[b, first:last], delta[b, first:last], A, B[b, first:last], C[b, first:last], D,
                                     None if z is None else z[b, first:last], delta_bias,
                                     state if carry else torch.zeros_like(A), softplus)
            parts.append(y)
        parts.append(torch.zeros(length - max(begin, end), channels, dtype=u.dtype))
        ys.append(torch.cat(parts))
        states.append(state)
    return {"y": torch.stack(ys), "state": torch.stack(states)}


def causal_conv1d(x, weight, bias=None, initial_state=None, spans=None, resets=None, silu=1):
    batch, length, channels = x.shape
    taps = weight.shape[1]
    ys, states = [], []
    for b in range(batch):
        begin, end = (0, length) if spans is None else (max(0, int(spans[b, 0])), min(length, int(spans[b, 1])))
        nothing = torch.zeros(taps - 1, channels, dtype=x.dtype)
        state = nothing if initial_state is None else initial_state[b]
        parts = [torch.zeros(begin, channels, dtype=x.dtype)]
        for first, last, carry in documents(begin, end, None if resets is None else resets[b]):
            rows = torch.cat([state if carry else nothing, x[b, first:last]])
            y = torch.nn.functional.conv1d(rows.T[None], weight[:, None, :], bias, groups=channels)[0].T
            parts.append(torch.nn.functional.silu(y) if silu else y)
            state = rows[rows.shape[0] - (taps - 1):]
        parts.append(torch.zeros(length - max(begin, end), channels, dtype=x.dtype))
        ys.append(torch.cat(parts))
        states.append(state)
    return {"y": torch.stack(ys), "state": torch.stack(states)}


def rms_norm(x, weight, residual=None, eps=None):
    total = x if residual is None else x + residual
    y = torch.nn.functional.rms_norm(total, (x.shape[-1],), weight, float(eps))
    return {"y": y} if residual is None else {"y": y, "sum": total}


def record(golden, case, function, arguments):
    """Runs one case and stores all of it."""
    wide = {}
    for name, value in arguments.items():
        golden[f"{case}.in.{name}"] = value.clone()
        wide[name] = value.double().requires_grad_() if value.is_floating_point() and value.ndim > 0 else value
    results = function(**wide)
    loss = 0
    for name, value in results.items():
        cotangent = torch.randn(value.shape)
        golden[f"{case}.out.{name}"] = value.detach().float()
        golden[f"{case}.cotangent.{name}"] = cotangent
        loss = loss + (value * cotangent.double()).sum()
    inputs = {name: value for name, value in wide.items() if value.requires_grad}
    for name, grad in zip(inputs, torch.autograd.grad(loss, list(inputs.values()))):
        golden[f"{case}.grad.{name}"] = grad.float()


def scan_arguments(batch, length, channels, states):
    return {
        "u": torch.randn(batch, length, channels),
        "delta": torch.randn(batch, length, channels) - 1,
        "A": -torch.exp(torch.randn(channels, states)),
        "B": torch.randn(batch, length, states),
        "C": torch.randn(batch, length, states),
        "D": torch.randn(channels),
        "z": 2 * torch.randn(batch, length, channels),
        "delta_bias": torch.randn(channels) / 2,
        "initial_state": torch.randn(batch, channels, states),
    }


def with_padding(arguments, batch, length):
    arguments["spans"] = torch.tensor([[3, length], [0, length - 5], [4, length - 2]][:batch], dtype=torch.int32)
    resets = torch.zeros(batch, length, dtype=torch.uint8)
    resets[:, length // 2] = 1
    resets[0, 3] = 1
    resets[1, length - 1] = 1
    arguments["resets"] = resets
    return arguments


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(20)
    golden = {}
    record(golden, "full", selective_scan, scan_arguments(2, 13, 5, 3))
    record(golden, "long", selective_scan, scan_arguments(1, 70, 9, 4))
    record(golden, "padded", selective_scan, with_padding(scan_arguments(3, 17, 6, 2), 3, 17))
    plain = scan_arguments(1, 6, 3, 16)
    for name in ("D", "z", "delta_bias", "initial_state"):
        del plain[name]
    plain["delta"] = plain["delta"].abs()
    plain["softplus"] = torch.tensor(0)
    record(golden, "plain", selective_scan, plain)
    save_file(golden, FOLDER / "selective_scan.safetensors")

    golden = {}
    for case, (batch, length, channels, taps) in {"four": (2, 11, 6, 4), "two": (1, 35, 3, 2), "one": (1, 4, 5, 1),
                                                  "short": (2, 3, 4, 7)}.items():
        record(golden, case, causal_conv1d, {
            "x": torch.randn(batch, length, channels), "weight": torch.randn(channels, taps),
            "bias": torch.randn(channels), "initial_state": torch.randn(batch, taps - 1, channels)})
    record(golden, "linear", causal_conv1d, {
        "x": torch.randn(2, 9, 5), "weight": torch.randn(5, 3), "silu": torch.tensor(0)})
    record(golden, "padded", causal_conv1d, with_padding({
        "x": torch.randn(3, 17, 6), "weight": torch.randn(6, 4), "bias": torch.randn(6),
        "initial_state": torch.randn(3, 3, 6)}, 3, 17))
    save_file(golden, FOLDER / "causal_conv1d.safetensors")

    golden = {}
    eps = torch.tensor(1e-5)
    record(golden, "alone", rms_norm, {"x": 3 * torch.randn(3, 5, 33), "weight": torch.randn(33), "eps": eps})
    record(golden, "one", rms_norm, {"x": torch.randn(4, 1), "weight": torch.randn(1), "eps": eps})
    record(golden, "added", rms_norm, {"x": torch.randn(70, 20), "weight": torch.randn(20),
                                       "residual": 4 * torch.randn(70, 20), "eps": eps})
    save_file(golden, FOLDER / "rms_norm.safetensors")


if __name__ == "__main__":
    main()
