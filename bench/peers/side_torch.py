#!/usr/bin/env python3
"""One measurement of a Python peer: prints prompt and generation tokens per second as JSON.

    bench/peers/side_torch.py transformers FOLDER --prompt 512 --new 32 --threads 2
    bench/peers/side_torch.py mambapy FOLDER ...
    bench/peers/side_torch.py mlx-lm FOLDER ...

FOLDER is a Hugging Face checkpoint of bench/peers/make_model.py. transformers runs eagerly; mambapy's model is its own,
of the same shape; mlx-lm runs on MLX's CPU. The same work as the other sides, medians over the repeats.
"""
import argparse
import json
import os
import statistics
import time


class Transformers:
    def __init__(self, folder, threads):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        self.vocabulary = self.model.config.vocab_size

    def run(self, prompt, new):
        start = time.perf_counter()
        out = self.model(self.torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        middle = time.perf_counter()
        token = out.logits[:, -1:].argmax(-1)
        for _ in range(new):
            out = self.model(token, cache_params=out.cache_params, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        return middle - start, time.perf_counter() - middle


class Mambapy:
    """Its stack of blocks between embeddings and an output layer of our own: its language model needs CUDA packages."""

    def __init__(self, folder, threads):
        import torch
        from mambapy.mamba import Mamba, MambaConfig

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        self.vocabulary = config["vocab_size"]
        self.config = MambaConfig(d_model=config["hidden_size"], n_layers=config["num_hidden_layers"])
        self.blocks = Mamba(self.config).eval()
        self.embeddings = torch.nn.Embedding(self.vocabulary, config["hidden_size"])

    def token_of(self, hidden):
        return (hidden @ self.embeddings.weight.T).argmax(-1)

    def run(self, prompt, new):
        # A prompt by its parallel scan, which keeps no state; a step's cost does not depend on the state's values.
        start = time.perf_counter()
        token = self.token_of(self.blocks(self.embeddings(self.torch.tensor([prompt])))[:, -1])
        middle = time.perf_counter()
        caches = [(None, self.torch.zeros(1, self.config.d_inner, self.config.d_conv - 1)) for _ in range(self.config.n_layers)]
        for _ in range(new):
            hidden, caches = self.blocks.step(self.embeddings(token), caches)
            token = self.token_of(hidden)
        return middle - start, time.perf_counter() - middle


class MlxLm:
    def __init__(self, folder, _threads):
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache
        from mlx_lm.utils import load_model
        from pathlib import Path

        mx.set_default_device(mx.cpu)
        self.mx = mx
        self.make_cache = make_prompt_cache
        self.model, config = load_model(Path(folder))
        self.vocabulary = config["vocab_size"]

    def run(self, prompt, new):
        mx = self.mx
        cache = self.make_cache(self.model)
        start = time.perf_counter()
        logits = self.model(mx.array([prompt]), cache=cache)[:, -1]
        mx.eval(logits)
        middle = time.perf_counter()
        for _ in range(new):
            token = mx.argmax(logits, axis=-1)
            logits = self.model(token[None], cache=cache)[:, -1]
            mx.eval(logits)
        return middle - start, time.perf_counter() - middle


SIDES = {"transformers": Transformers, "mambapy": Mambapy, "mlx-lm": MlxLm}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("folder")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args()
    side = SIDES[args.side](args.folder, args.threads)
    prompt = [(i * 7919 + 13) % side.vocabulary for i in range(args.prompt)]
    side.run(prompt[:16], 2)
    seconds = [side.run(prompt, args.new) for _ in range(args.repeat)]
    print(json.dumps({"prompt_tokens_per_second": args.prompt / statistics.median(s[0] for s in seconds),
                      "generation_tokens_per_second": args.new / statistics.median(s[1] for s in seconds)}))


if __name__ == "__main__":
    main()
