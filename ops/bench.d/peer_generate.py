"""The peer of ops/bench.d/grpo for rollouts: transformers' generate on a group of completions of one prompt.

    peer_generate.py MODEL THREADS PROMPT GROUP TOKENS f32|bf16

One JSON line: {"seconds": .., "cpu_seconds": ..} of the second of two calls. PROMPT is a number of tokens; every completion
has TOKENS of them, drawn at temperature 1.
"""
import json
import sys
import time

import torch
from transformers import Qwen2_5_VLForConditionalGeneration


def main():
    path, kind = sys.argv[1], sys.argv[6]
    threads, prompt, group, tokens = map(int, sys.argv[2:6])
    torch.set_num_threads(threads)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        path, dtype=torch.bfloat16 if kind == "bf16" else torch.float32).eval()
    ids = torch.tensor([[33 + i * 7919 % 200 for i in range(prompt)]])
    for _ in range(2):
        start, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0,
                           top_p=1.0, num_return_sequences=group, min_new_tokens=tokens, max_new_tokens=tokens)
        seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
