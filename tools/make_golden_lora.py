#!/usr/bin/env python3
"""Golden adapters from PEFT: tests/golden/lora/.

  make_golden_lora.py                          writes them; takes a few seconds
  make_golden_lora.py --check MODEL ADAPTER LOGITS
                                               opens an adapter of ours in PEFT instead and compares with the logits that
                                               `mlx-mamba score --model MODEL --adapter ADAPTER --tokens ... --logits LOGITS`
                                               wrote for the tokens 1, 2, ..., L

tests/golden/lora/README.md says what the files hold, and why the logits are those of the merged weights.

    pip install -r tools/requirements.txt
"""

import argparse
import json
import platform
import shutil
from pathlib import Path

import peft
import safetensors
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import tuners_utils
from safetensors.torch import load_file, save_file
from transformers import MambaForCausalLM

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "tests" / "golden" / "models" / "base"
FOLDER = ROOT / "tests" / "golden" / "lora"

# PEFT refuses out_proj (and conv1d) on Mamba, for the sake of fused kernels that would pass an adapter by.
# The merged weights are right all the same.
tuners_utils._check_lora_target_modules_mamba = lambda *arguments: None

CASES = {
    "projections": dict(r=4, lora_alpha=6, target_modules=["in_proj", "x_proj"]),
    "all_rslora": dict(
        r=3, lora_alpha=5, use_rslora=True, target_modules=["in_proj", "x_proj", "dt_proj", "out_proj"],
        rank_pattern={"layers.0.mixer.in_proj": 2, "dt_proj": 7}, alpha_pattern={r".*\.1\..*x_proj": 1.5},
    ),
    "regex": dict(r=2, lora_alpha=8, target_modules=r".*\.(?P<layer>\d+)\.mixer\.(dt|out)_proj"),
    "all_linear": dict(r=5, lora_alpha=2, target_modules="all-linear", exclude_modules=["layers.0.mixer.x_proj"]),
    "one_layer": dict(r=1, lora_alpha=4, target_modules=["out_proj", "x_proj"], layers_to_transform=[1]),
}
TORCH_FILES = {"regex"}  # adapter_model.bin instead of safetensors


def adapted(config, seed):
    torch.manual_seed(seed)
    model = get_peft_model(MambaForCausalLM.from_pretrained(BASE), LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                # dt_proj's inputs are small numbers.
                p.copy_(torch.randn_like(p) * (2.0 if "dt_proj" in name else 0.3))
    return model


@torch.no_grad()
def merged_logits(model, tokens):
    return model.merge_and_unload().eval()(tokens, use_cache=False).logits


def write_case(name, config, seed):
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    model = adapted(config, seed)
    model.peft_config["default"].base_model_name_or_path = "models/base"
    as_torch = name in TORCH_FILES
    model.save_pretrained(folder, safe_serialization=not as_torch)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    tokens = torch.randint(0, 24, (2, 41), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        base = MambaForCausalLM.from_pretrained(BASE).eval()(tokens, use_cache=False).logits
        unmerged = model(tokens, use_cache=False).logits
    logits = merged_logits(model, tokens)
    effect = (logits - base).abs().max().item()
    skipped = (logits - unmerged).abs().max().item()
    print(f"{name}: differs from the base by {effect:.3f}, from PEFT's unmerged forward pass by {skipped:.6f}")
    assert effect > 0.05, name
    save_file({"tokens": tokens.int(), "logits": logits.float().contiguous()}, folder / "golden.safetensors")


def write_all():
    FOLDER.mkdir(exist_ok=True)
    for seed, (name, config) in enumerate(CASES.items()):
        write_case(name, config, 100 + seed)
    versions = {
        "python": platform.python_version(), "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__, "peft": peft.__version__, "safetensors": safetensors.__version__,
    }
    (FOLDER / "manifest.json").write_text(json.dumps({"versions": versions, "cases": list(CASES)}, indent=2) + "\n")


def check(model_folder, adapter_folder, logits_file):
    expected = load_file(logits_file)["logits"]
    model = PeftModel.from_pretrained(MambaForCausalLM.from_pretrained(model_folder), adapter_folder).eval()
    tokens = torch.arange(1, len(expected) + 1)[None]
    with torch.no_grad():
        unmerged = model(tokens, use_cache=False).logits[0]
    merged = merged_logits(model, tokens)[0]
    print(f"largest difference from PEFT's merged weights: {(merged - expected).abs().max().item():.2e}")
    print(f"largest difference from PEFT's unmerged forward pass: {(unmerged - expected).abs().max().item():.2e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", nargs=3, metavar=("MODEL", "ADAPTER", "LOGITS"))
    arguments = parser.parse_args()
    if arguments.check:
        check(*arguments.check)
    else:
        write_all()


if __name__ == "__main__":
    main()
