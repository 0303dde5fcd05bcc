#!/usr/bin/env python3
"""Golden quantised checkpoints from mlx-lm: tests/golden/quantized/.

  make_golden_quantized.py                     writes them; takes a few seconds
  make_golden_quantized.py --check MODEL LOGITS
                                               opens a checkpoint of ours in mlx-lm instead and compares with the logits
                                               that `mlx-mamba score --model MODEL --tokens 1,2,... --logits LOGITS`
                                               wrote for the tokens 1, 2, ..., L

tests/golden/quantized/README.md says what the files hold.

    pip install -r tools/requirements.txt
"""

import argparse
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.mamba import Model, ModelArgs
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "golden" / "quantized"

SHAPE = dict(
    model_type="mamba", vocab_size=37, hidden_size=64, intermediate_size=128, state_size=8, num_hidden_layers=2,
    conv_kernel=4, use_bias=False, use_conv_bias=True, time_step_rank=32, tie_word_embeddings=True,
)


def mixed(path, module):
    if "x_proj" in path:
        return False
    if "out_proj" in path or "lm_head" in path:
        return {"group_size": 64, "bits": 8, "mode": "affine"}
    return True


CASES = {
    "eight_bits": dict(bits=8, group_size=64),
    "four_bits_bfloat16": dict(bits=4, group_size=32, dtype="bfloat16"),
    "mixed_untied": dict(bits=4, group_size=32, predicate=mixed, shape=dict(tie_word_embeddings=False, use_bias=True)),
}


def random_model(config, seed, dtype):
    model = Model(ModelArgs.from_dict(config))
    mx.random.seed(seed)
    values = []
    for name, value in tree_flatten(model.parameters()):
        spread = 0.5 if "dt_proj" in name else 1 / value.shape[-1] ** 0.5 if value.ndim > 1 else 0.3
        if name.endswith("A_log") or name.endswith("norm.weight") or "norm_f" in name:
            value = value + 0.1 * mx.random.normal(value.shape)
        else:
            value = spread * mx.random.normal(value.shape)
        values.append((name, value.astype(dtype)))
    model.update(tree_unflatten(values))
    mx.eval(model.parameters())
    return model


def write_case(name, seed, bits, group_size, dtype="float32", predicate=None, shape={}):
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = {**SHAPE, **shape, "torch_dtype": dtype}
    model = random_model(config, seed, getattr(mx, dtype))
    tokens = mx.random.randint(0, config["vocab_size"], (2, 45))
    floats = model(tokens)
    model, config = quantize_model(model, config, group_size, bits, quant_predicate=predicate)
    save_model(folder, model)
    save_config(config, folder / "config.json")
    (folder / "model.safetensors.index.json").unlink()  # of one file
    again, _ = load_model(folder)
    # In float32 also where the scales are not, so that it is the weights that are compared, not bfloat16 sums.
    again.update(tree_unflatten(
        [(n, v.astype(mx.float32) if v.dtype == mx.bfloat16 else v) for n, v in tree_flatten(again.parameters())]))
    logits = again(tokens)
    print(f"{name}: quantising moves logits by up to {mx.abs(logits - floats).max().item():.3f}")
    mx.save_safetensors(str(folder / "golden.safetensors"), {"tokens": tokens.astype(mx.int32), "logits": logits})


def write_all():
    for seed, (name, case) in enumerate(CASES.items()):
        write_case(name, 200 + seed, **case)
    versions = {package: version(package) for package in ("mlx", "mlx-lm")}
    (FOLDER / "manifest.json").write_text(json.dumps({"versions": versions, "cases": list(CASES)}, indent=2) + "\n")


def check(model_folder, logits_file):
    expected = mx.load(logits_file)["logits"]
    model, config = load_model(Path(model_folder))
    logits = model(mx.arange(1, expected.shape[0] + 1)[None])[0]
    print(f"mlx-lm opens it: {config['quantization']}")
    print(f"largest difference: {mx.abs(logits - expected).max().item():.2e} of {mx.abs(expected).max().item():.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", nargs=2, metavar=("MODEL", "LOGITS"))
    arguments = parser.parse_args()
    if arguments.check:
        check(*arguments.check)
    else:
        write_all()


if __name__ == "__main__":
    main()
