"""Mamba's forward pass over the parameters of transformers' MambaForCausalLM, made for training.

transformers loops over time in Python unless mamba_ssm's CUDA extension is installed, which is too slow to train with.
Here the scan is one Triton kernel each way on a GPU, a plain loop elsewhere; the rest is ordinary PyTorch. Dropout,
which the model's own forward lacks, sits on the embedding and on each residual branch. check() compares with
transformers.
"""

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None


if triton:

    @triton.jit
    def _scan_fwd(x, dt, A, B, C, y, states, L, D, N: tl.constexpr, BLOCK: tl.constexpr, KEEP: tl.constexpr):
        batch = tl.program_id(0)
        d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        n = tl.arange(0, N)
        inside = d < D
        dn = d[:, None] * N + n[None, :]
        a = tl.load(A + dn, mask=inside[:, None], other=0.0)
        h = tl.zeros((BLOCK, N), dtype=tl.float32)
        for t in range(L):
            row = batch * L + t
            dt_t = tl.load(dt + row * D + d, mask=inside, other=0.0)
            x_t = tl.load(x + row * D + d, mask=inside, other=0.0)
            b_t = tl.load(B + row * N + n)
            c_t = tl.load(C + row * N + n)
            h = tl.exp(dt_t[:, None] * a) * h + (dt_t * x_t)[:, None] * b_t[None, :]
            tl.store(y + row * D + d, tl.sum(h * c_t[None, :], axis=1), mask=inside)
            if KEEP:
                tl.store(states + row.to(tl.int64) * D * N + dn, h, mask=inside[:, None])

    @triton.jit
    def _scan_bwd(
        x, dt, A, B, C, states, dy, dx, ddt, dA, dB, dC, L, D, N: tl.constexpr, BLOCK: tl.constexpr
    ):
        batch = tl.program_id(0)
        block = tl.program_id(1)
        d = block * BLOCK + tl.arange(0, BLOCK)
        n = tl.arange(0, N)
        inside = d < D
        dn = d[:, None] * N + n[None, :]
        # dB and dC sum over channels: each block of channels writes its own share.
        share = (block * tl.num_programs(0) + batch) * L
        a = tl.load(A + dn, mask=inside[:, None], other=0.0)
        grad_a = tl.zeros((BLOCK, N), dtype=tl.float32)
        grad_h = tl.zeros((BLOCK, N), dtype=tl.float32)
        last = (batch * L + L - 1).to(tl.int64)
        h = tl.load(states + last * D * N + dn, mask=inside[:, None], other=0.0)
        for step in range(L):
            t = L - 1 - step
            row = batch * L + t
            dt_t = tl.load(dt + row * D + d, mask=inside, other=0.0)
            x_t = tl.load(x + row * D + d, mask=inside, other=0.0)
            dy_t = tl.load(dy + row * D + d, mask=inside, other=0.0)
            b_t = tl.load(B + row * N + n)
            c_t = tl.load(C + row * N + n)
            # Nothing stands before t = 0: the load is kept in bounds there and its value dropped.
            earlier = (batch * L + tl.maximum(t - 1, 0)).to(tl.int64)
            before = tl.load(states + earlier * D * N + dn, mask=inside[:, None], other=0.0) * tl.minimum(t, 1)
            grad_h += dy_t[:, None] * c_t[None, :]
            tl.store(dC + (share + t) * N + n, tl.sum(dy_t[:, None] * h, axis=0))
            tl.store(dB + (share + t) * N + n, tl.sum(grad_h * (dt_t * x_t)[:, None], axis=0))
            along_b = tl.sum(grad_h * b_t[None, :], axis=1)
            tl.store(dx + row * D + d, along_b * dt_t, mask=inside)
            decay = tl.exp(dt_t[:, None] * a)
            through = grad_h * decay * before
            tl.store(ddt + row * D + d, tl.sum(through * a, axis=1) + along_b * x_t, mask=inside)
            grad_a += through * dt_t[:, None]
            grad_h = grad_h * decay
            h = before
        tl.store(dA + batch * D * N + dn, grad_a, mask=inside[:, None])

    class TritonScan(torch.autograd.Function):
        BLOCK = 16

        @staticmethod
        def forward(ctx, x, dt, A, B, C):
            x, dt, A, B, C = (v.contiguous() for v in (x, dt, A, B, C))
            (batch, L, D), N = x.shape, A.shape[1]
            keep = any(ctx.needs_input_grad)
            y = torch.empty_like(x)
            states = x.new_empty((batch, L, D, N) if keep else (1,))
            grid = (batch, triton.cdiv(D, TritonScan.BLOCK))
            _scan_fwd[grid](x, dt, A, B, C, y, states, L, D, N, TritonScan.BLOCK, keep, num_warps=1)
            ctx.save_for_backward(x, dt, A, B, C, states)
            return y

        @staticmethod
        def backward(ctx, dy):
            x, dt, A, B, C, states = ctx.saved_tensors
            (batch, L, D), N = x.shape, A.shape[1]
            blocks = triton.cdiv(D, TritonScan.BLOCK)
            dx, ddt = torch.empty_like(x), torch.empty_like(x)
            dA = x.new_empty(batch, D, N)
            dB, dC = x.new_empty(blocks, batch, L, N), x.new_empty(blocks, batch, L, N)
            _scan_bwd[(batch, blocks)](
                x, dt, A, B, C, states, dy.contiguous(), dx, ddt, dA, dB, dC, L, D, N, TritonScan.BLOCK, num_warps=1
            )
            return dx, ddt, dA.sum(0), dB.sum(0), dC.sum(0)


def scan_loop(x, dt, A, B, C):
    """y[t] = C[t] . h[t], h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t]; x, dt (b, L, D), A (D, N), B, C (b, L, N)."""
    h = x.new_zeros(x.shape[0], x.shape[2], A.shape[1])
    ys = []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * x[:, t])[..., None] * B[:, t, None, :]
        ys.append((h * C[:, t, None, :]).sum(-1))
    return torch.stack(ys, dim=1)


def scan(x, dt, A, B, C):
    return TritonScan.apply(x, dt, A, B, C) if triton and x.is_cuda else scan_loop(x, dt, A, B, C)


def rms_norm(x, norm):
    return norm.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon))


def mix(mixer, x):
    length = x.shape[1]
    u, gate = mixer.in_proj(x).chunk(2, dim=-1)
    taps = mixer.conv1d.weight[:, 0]  # (D, K)
    width = taps.shape[1]
    padded = F.pad(u, (0, 0, width - 1, 0))
    u = sum(taps[:, k] * padded[:, k : k + length] for k in range(width))
    u = F.silu(u + mixer.conv1d.bias if mixer.conv1d.bias is not None else u)
    rank, N = mixer.dt_proj.weight.shape[1], mixer.A_log.shape[1]
    dt, B, C = mixer.x_proj(u).split([rank, N, N], dim=-1)
    y = scan(u, F.softplus(mixer.dt_proj(dt)), -torch.exp(mixer.A_log), B, C)
    return mixer.out_proj((y + u * mixer.D) * F.silu(gate))


def forward(model, tokens, dropout=0.0):
    """tokens (b, L) -> logits (b, L, vocab)."""
    x = F.dropout(model.backbone.embeddings(tokens), dropout, model.training)
    for layer in model.backbone.layers:
        x = x + F.dropout(mix(layer.mixer, rms_norm(x, layer.norm)), dropout, model.training)
    return rms_norm(x, model.backbone.norm_f) @ model.lm_head.weight.T


def check(model, tokens):
    """How far this file is from transformers' logits, and from the plain loop's gradients."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = (forward(model, tokens) - model(tokens, use_cache=False).logits).abs().max().item()
    D, N = model.backbone.layers[0].mixer.A_log.shape
    generator = torch.Generator().manual_seed(1)
    x, dt, A, B, C, g = (
        torch.randn(shape, generator=generator).to(tokens.device)
        for shape in ((2, 37, D), (2, 37, D), (D, N), (2, 37, N), (2, 37, N), (2, 37, D))
    )
    inputs = [v.requires_grad_() for v in (x, F.softplus(dt - 2), -torch.exp(A), B, C)]
    ours = torch.autograd.grad((scan(*inputs) * g).sum(), inputs)
    loops = torch.autograd.grad((scan_loop(*inputs) * g).sum(), inputs)
    gradients = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, loops))
    model.train(was_training)
    return logits, gradients
