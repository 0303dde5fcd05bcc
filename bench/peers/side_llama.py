#!/usr/bin/env python3
"""One measurement of llama.cpp: prints prompt and generation tokens per second as JSON.

    bench/peers/side_llama.py MODEL.gguf --prompt 512 --new 128 --batch 1 --threads 2 --repeat 3

What its own llama-bench does: a prompt in batches of 512 with logits of its last token, then a token at a time for all
sequences, nothing chosen from the logits. Medians over the repeats; the first pass does not count.
"""
import argparse
import ctypes
import json
import statistics
import time

import llama_cpp


class Session:
    def __init__(self, path, sequences, threads):
        self.log = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = 1 << 17
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = threads
        params.n_seq_max = sequences
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.counter = 0

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def decode(self, places):
        """places: (sequence, position, whether logits are wanted)."""
        self.batch.n_tokens = len(places)
        for i, (sequence, position, wanted) in enumerate(places):
            self.counter += 1
            self.batch.token[i] = self.counter * 7919 % self.vocabulary
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wanted
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)

    def run(self, prompt, new, sequences):
        """Seconds for all prompts, and for the tokens after them."""
        self.clear()
        start = time.perf_counter()
        for sequence in range(sequences):
            for first in range(0, prompt, 512):
                last = min(first + 512, prompt)
                self.decode([(sequence, i, i == prompt - 1) for i in range(first, last)])
        middle = time.perf_counter()
        for step in range(new):
            self.decode([(sequence, prompt + step, True) for sequence in range(sequences)])
        return middle - start, time.perf_counter() - middle


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    session = Session(args.model, args.batch, args.threads)
    session.run(min(args.prompt, 512), min(args.new, 4), args.batch)
    seconds = [session.run(args.prompt, args.new, args.batch) for _ in range(args.repeat)]
    prompts = statistics.median(s[0] for s in seconds)
    news = statistics.median(s[1] for s in seconds)
    print(json.dumps({"prompt_tokens_per_second": args.batch * args.prompt / prompts if args.prompt else None,
                      "generation_tokens_per_second": args.batch * args.new / news if args.new else None}))


if __name__ == "__main__":
    main()
