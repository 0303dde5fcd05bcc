#!/usr/bin/env python3
"""A model of a published size with random weights, in the formats of all sides.

    bench/peers/make_model.py 130m FOLDER

FOLDER/float32 and FOLDER/bfloat16 are Hugging Face checkpoints, FOLDER/{f32,bf16,q8_0,q4_0}.gguf the same for llama.cpp,
quantised by its own function with its defaults. Speed does not depend on the values. What is there is not made again.
"""
import argparse
import json
import os

import gguf
import numpy as np

SHAPES = {"130m": (24, 768), "370m": (48, 1024), "790m": (48, 1536), "1.4b": (48, 2048), "2.8b": (64, 2560)}
VOCABULARY, STATES, TAPS = 50280, 16, 4
WIDE = ("A_log", ".D", "bias", "norm", "conv1d")  # stay float32 in any checkpoint
GGUF_NAMES = {"norm.weight": "attn_norm.weight", "mixer.in_proj.weight": "ssm_in.weight", "mixer.conv1d.weight": "ssm_conv1d.weight",
              "mixer.conv1d.bias": "ssm_conv1d.bias", "mixer.x_proj.weight": "ssm_x.weight", "mixer.dt_proj.weight": "ssm_dt.weight",
              "mixer.dt_proj.bias": "ssm_dt.bias", "mixer.A_log": "ssm_a", "mixer.D": "ssm_d", "mixer.out_proj.weight": "ssm_out.weight"}


def tensors(layers, width):
    """Name and values of one parameter after another."""
    random = np.random.default_rng(1)
    inner, rank = 2 * width, -(-width // 16)

    def uniform(*shape):
        return random.random(shape, dtype=np.float32) * np.float32(2 * shape[-1]**-0.5) - np.float32(shape[-1]**-0.5)

    yield "backbone.embeddings.weight", uniform(VOCABULARY, width)
    for i in range(layers):
        layer = f"backbone.layers.{i}."
        yield layer + "norm.weight", np.ones(width, np.float32)
        yield layer + "mixer.A_log", np.tile(np.log(np.arange(1, STATES + 1, dtype=np.float32)), (inner, 1))
        yield layer + "mixer.D", np.ones(inner, np.float32)
        yield layer + "mixer.in_proj.weight", uniform(2 * inner, width)
        yield layer + "mixer.conv1d.weight", uniform(inner, 1, TAPS)
        yield layer + "mixer.conv1d.bias", uniform(inner)
        yield layer + "mixer.x_proj.weight", uniform(rank + 2 * STATES, inner)
        yield layer + "mixer.dt_proj.weight", uniform(inner, rank)
        yield layer + "mixer.dt_proj.bias", uniform(inner) - np.float32(4.5)
        yield layer + "mixer.out_proj.weight", uniform(width, inner)
    yield "backbone.norm_f.weight", np.ones(width, np.float32)


def to_bfloat16(values):
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_checkpoint(folder, layers, width, dtype):
    """config.json and model.safetensors, written tensor by tensor."""
    os.makedirs(folder, exist_ok=True)
    narrow = {name: dtype == "bfloat16" and not any(part in name for part in WIDE) for name, _ in tensors(layers, width)}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, values in tensors(layers, width):
        size = values.size * (2 if narrow[name] else 4)
        header[name] = {"dtype": "BF16" if narrow[name] else "F32", "shape": list(values.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64 + 56)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, values in tensors(layers, width):
            (to_bfloat16(values) if narrow[name] else values).tofile(file)
    config = {"architectures": ["MambaForCausalLM"], "model_type": "mamba", "vocab_size": VOCABULARY, "hidden_size": width,
              "num_hidden_layers": layers, "state_size": STATES, "conv_kernel": TAPS, "expand": 2, "intermediate_size": 2 * width,
              "time_step_rank": -(-width // 16), "tie_word_embeddings": True, "use_bias": False, "use_conv_bias": True,
              "residual_in_fp32": True, "layer_norm_epsilon": 1e-5, "torch_dtype": dtype}
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)


def write_gguf(path, layers, width, kind):
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_name("random")
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    writer.add_ssm_conv_kernel(TAPS)
    writer.add_ssm_inner_size(2 * width)
    writer.add_ssm_state_size(STATES)
    writer.add_ssm_time_step_rank(-(-width // 16))
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_dt_b_c_rms(False)
    for name, values in tensors(layers, width):
        narrow = kind == gguf.GGMLQuantizationType.BF16 and not any(part in name for part in WIDE)
        if name == "backbone.embeddings.weight":
            name = "token_embd.weight"
        elif name == "backbone.norm_f.weight":
            name = "output_norm.weight"
        else:
            layer, rest = name.removeprefix("backbone.layers.").split(".", 1)
            if rest == "mixer.A_log":
                values = -np.exp(values)
            name = f"blk.{layer}.{GGUF_NAMES[rest]}"
        values = values.reshape(values.shape[0], -1) if values.ndim == 3 else values
        if narrow:
            writer.add_tensor(name, to_bfloat16(values).view(np.uint8), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source, path, kind):
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = kind
    if llama_cpp.llama_model_quantize(source.encode(), path.encode(), params) != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder")
    args = parser.parse_args()
    make(args.shape, args.folder)


def make(shape, folder):
    import llama_cpp

    layers, width = SHAPES[shape]
    for dtype in ("float32", "bfloat16"):
        if not os.path.exists(os.path.join(folder, dtype, "config.json")):
            write_checkpoint(os.path.join(folder, dtype), layers, width, dtype)
    for name, kind in (("f32", gguf.GGMLQuantizationType.F32), ("bf16", gguf.GGMLQuantizationType.BF16)):
        if not os.path.exists(path := os.path.join(folder, name + ".gguf")):
            write_gguf(path + ".part", layers, width, kind)
            os.rename(path + ".part", path)
    for name, kind in (("q8_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0), ("q4_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0)):
        if not os.path.exists(path := os.path.join(folder, name + ".gguf")):
            quantise(os.path.join(folder, "f32.gguf"), path + ".part", kind)
            os.rename(path + ".part", path)


if __name__ == "__main__":
    main()
