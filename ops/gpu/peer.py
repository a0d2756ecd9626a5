"""The peer of ops/gpu/bench: the same checkpoint in transformers with SDPA, bf16, on the same GPU in the same run.

    python3 peer.py DIR DEVICE BATCH PROMPT TOKENS PREFILL

Prints JSON lines: decode of one sequence and of BATCH (greedy, TOKENS after PROMPT), prefill of PREFILL tokens with logits
for the last alone. The model is called directly with its cache, which spares it generate()'s own overhead. Every figure is
the median of 3 after one warm-up.
"""
import json
import statistics
import sys
import time

import torch
import transformers
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

REPEAT = 3


class Peer:
    def __init__(self, path, device):
        self.device = torch.device(device)
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=torch.bfloat16).eval().to(self.device)
        config = self.model.config
        self.vocab = config.get_text_config().vocab_size
        self.taken = {config.image_token_id, config.video_token_id}

    def ids(self, batch, count):
        rows = []
        for q in range(batch):
            row = [(i * 7919 + q * 104729) % self.vocab for i in range(count)]
            rows.append([i - 1 if i in self.taken else i for i in row])
        return torch.tensor(rows, device=self.device)

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self, ids, at, cache):
        position = torch.arange(at, at + ids.shape[1], device=self.device).view(1, 1, -1).expand(3, ids.shape[0], -1)
        out = self.model(input_ids=ids, position_ids=position, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True)

    def once(self, batch, prompt, tokens):
        """Seconds of the prompt, and of the tokens - 1 steps after it."""
        cache, ids = DynamicCache(), self.ids(batch, prompt)
        start = self.wait()
        token = self.step(ids, 0, cache)
        middle = self.wait()
        for i in range(tokens - 1):
            token = self.step(token, prompt + i, cache)
        return middle - start, self.wait() - middle


def main():
    path, device = sys.argv[1:3]
    batch, prompt, tokens, prefill = map(int, sys.argv[3:7])
    peer = Peer(path, device)
    name = torch.cuda.get_device_name() if peer.device.type == "cuda" else "cpu"
    head = {"device": name, "model": path, "torch": torch.__version__, "transformers": transformers.__version__}
    with torch.inference_mode():
        for n in (1, batch):
            peer.once(n, prompt, tokens)
            seconds = statistics.median(peer.once(n, prompt, tokens)[1] for _ in range(REPEAT))
            step = seconds / (tokens - 1)
            print(json.dumps({"bench": "peer decode", **head, "batch": n, "prompt": prompt, "tokens": tokens,
                              "step_ms": step * 1e3, "tok_s": n / step}), flush=True)
        peer.once(1, prefill, 1)
        seconds = statistics.median(peer.once(1, prefill, 1)[0] for _ in range(REPEAT))
        print(json.dumps({"bench": "peer prefill", **head, "prompt": prefill, "ms": seconds * 1e3,
                          "tok_s": prefill / seconds}), flush=True)


main()
