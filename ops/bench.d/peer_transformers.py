"""The peer of ops/bench: the engine's measurements done with transformers, on the same checkpoint and threads.

Reads one request a line on stdin and answers each with one JSON line on stdout:
    decode|prefill|vision f32|bf16      {"value": tokens or patches a second}
    train f32|bf16                      {"value": tokens a second, "peak_bytes": of this process}
    preprocess FILE                     {"value": images a second}
The work is that of `mull-engine bench`: decode 64 tokens after 128, prefill 512 tokens with logits for the last alone,
one medium of 1 x 32 x 32 patches. Decoding calls the model directly with a cache: model.generate would add its own
overhead, and the comparison should be with the model at its best. A training step is forward, backward, clipping by the
global norm and the fused AdamW over 384 tokens, the vision tower frozen; its memory is this process's peak, so it wants
one of its own. Every value is the median of 3 after one warm-up, for images
of 100.
"""
import json
import resource
import statistics
import sys
import time

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

CONTEXT, TOKENS, PREFILL, TRAIN, GRID, REPEAT = 128, 64, 512, 384, (1, 32, 32), 3
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def middle(work, repeat=REPEAT):
    """Median seconds of work(), which may return its own seconds."""
    times = []
    for i in range(repeat + 1):
        start = time.perf_counter()
        own = work()
        seconds = time.perf_counter() - start if own is None else own
        if i:
            times.append(seconds)
    return statistics.median(times)


class Peer:
    def __init__(self, path):
        self.path, self.models, self.trained = path, {}, None

    def model(self, name):
        if name not in self.models:
            self.models[name] = Qwen2_5_VLForConditionalGeneration.from_pretrained(self.path, dtype=TYPES[name]).eval()
        return self.models[name]

    def ids(self, model, count):
        """Text without placeholders."""
        taken = {model.config.image_token_id, model.config.video_token_id}
        vocab = model.config.get_text_config().vocab_size
        ids = [i * 7919 % vocab for i in range(count)]
        return torch.tensor([[i - 1 if i in taken else i for i in ids]])

    def step(self, model, ids, at, cache):
        """One call of the model for ids at positions at, at + 1, ..; logits of the last."""
        position = torch.arange(at, at + ids.shape[1]).view(1, 1, -1).expand(3, 1, -1)
        out = model(input_ids=ids, position_ids=position, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True)

    def decode(self, name):
        model = self.model(name)
        prompt = self.ids(model, CONTEXT)

        def work():
            cache = DynamicCache(config=model.config.get_text_config())
            token = self.step(model, prompt, 0, cache)
            start = time.perf_counter()
            for i in range(TOKENS - 1):
                token = self.step(model, token, CONTEXT + i, cache)
            return time.perf_counter() - start

        return (TOKENS - 1) / middle(work)

    def prefill(self, name):
        model = self.model(name)
        prompt = self.ids(model, PREFILL)

        def work():
            self.step(model, prompt, 0, DynamicCache(config=model.config.get_text_config()))

        return PREFILL / middle(work)

    def vision(self, name):
        model = self.model(name)
        tower = model.model.visual if hasattr(model, "model") and hasattr(model.model, "visual") else model.visual
        count = GRID[0] * GRID[1] * GRID[2]
        patches = torch.linspace(-1, 1, count * 1176).view(count, 1176).to(TYPES[name])
        grid = torch.tensor([GRID])

        def work():
            tower(patches, grid_thw=grid)

        return count / middle(work)

    def train(self, name):
        if self.trained is None:
            model = self.model(name).train()
            model.model.visual.requires_grad_(False)
            weights = [p for p in model.parameters() if p.requires_grad]
            self.trained = model, weights, torch.optim.AdamW(weights, lr=1e-6, weight_decay=0, fused=True)
        model, weights, optimizer = self.trained
        ids = self.ids(model, TRAIN)
        position = torch.arange(TRAIN).view(1, 1, -1).expand(3, 1, -1)

        def work():
            model(input_ids=ids, position_ids=position, labels=ids, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 5.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return TRAIN / middle(work)

    def preprocess(self, path):
        def work():
            self.patches(path)  # and returns nothing: the seconds are taken outside

        return 1 / middle(work, 100)

    @staticmethod
    def patches(path):
        """Decode, Pillow's bicubic resize, normalise and cut into patches with numpy, as the checkpoint's processor."""
        image = Image.open(path)
        if image.mode == "RGBA":
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        image = image.convert("RGB")
        w, h = (max(28, round(side / 28) * 28) for side in image.size)
        x = np.asarray(image.resize((w, h), Image.BICUBIC), dtype=np.float32) * np.float32(1 / 255)
        x = ((x - MEAN) / STD).transpose(2, 0, 1)
        x = np.broadcast_to(x, (2, *x.shape)).reshape(1, 2, 3, h // 28, 2, 14, w // 28, 2, 14)
        return np.ascontiguousarray(x.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)).reshape(-1, 1176)


def main():
    path, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    peer, out = Peer(path), sys.stdout
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "pillow": Image.__version__}
    print(json.dumps(versions), file=out, flush=True)
    for line in sys.stdin:
        what, argument = line.rstrip("\n").split(" ", 1)
        with torch.inference_mode(what != "train"):
            value = getattr(peer, what)(argument)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"value": value, "peak_bytes": peak}), file=out, flush=True)


if __name__ == "__main__":
    main()
