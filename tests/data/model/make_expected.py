#!/usr/bin/env python3
"""Writes expected.safetensors: what transformers computes for the case of this folder (see README.md).

usage: make_expected.py CHECKPOINT_DIR     the folder of model `own` of configs.json, by the weight formula
Needs torch and transformers (made with torch 2.15.0, transformers 5.23.0, float32, CPU).
"""
import sys
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import Qwen2_5_VLForConditionalGeneration

IMAGE, VIDEO, START, END = 240, 241, 242, 243
GRID_I, GRID_V, SECONDS = (1, 6, 10), (2, 4, 4), 1.7


def uniform(seed, name, n):
    h = 0xcbf29ce484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001b3) & (2**64 - 1)
    with np.errstate(over="ignore"):
        z = (np.uint64(seed ^ h) ^ np.arange(n, dtype=np.uint64)) + np.uint64(0x9e3779b97f4a7c15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
        z = z ^ (z >> np.uint64(31))
    return (((z >> np.uint64(40)).astype(np.int64) - (1 << 23)) / float(1 << 23)).astype(np.float32)


def ids():
    text = [int(v) for v in (uniform(7, "ids", 40) * 100 + 110)]
    image, video = 3 * 5, 2 * 2 * 2
    return (text[:6] + [START] + [IMAGE] * image + [END] + text[6:11] + [START] + [VIDEO] * video + [END] + text[11:20],
            text[20:33])


def positions(seq):
    pos, nxt, i = [], 0, 0
    while i < len(seq):
        if seq[i] in (IMAGE, VIDEO):
            t, h, w = GRID_I if seq[i] == IMAGE else GRID_V
            step = lambda k: int(np.float32(k) * np.float32(SECONDS) * np.float32(2)) if seq[i] == VIDEO else 0
            block = [(nxt + step(a), nxt + b, nxt + c) for a in range(t) for b in range(h // 2) for c in range(w // 2)]
            pos += block
            i += len(block)
            nxt = max(max(p) for p in block) + 1
        else:
            pos.append((nxt,) * 3)
            nxt += 1
            i += 1
    return np.array(pos, np.int64).T


def main():
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    out = {"input_ids": [], "position_ids": [], "hidden_final": [], "logits_last": [], "next_logprob": [], "greedy": []}
    patches = {"i": uniform(7, "pixel_values", 60 * 1176).reshape(60, 1176) * np.float32(2),
               "v": uniform(7, "pixel_values_videos", 32 * 1176).reshape(32, 1176) * np.float32(2)}
    for n, seq in enumerate(ids()):
        media = {} if n else {"pixel_values": torch.tensor(patches["i"]), "image_grid_thw": torch.tensor([GRID_I]),
                              "pixel_values_videos": torch.tensor(patches["v"]), "video_grid_thw": torch.tensor([GRID_V])}
        greedy, full = [], list(seq)
        for step in range(13):
            pos = torch.tensor(positions(full))[:, None]
            with torch.no_grad():
                r = model(input_ids=torch.tensor([full]), position_ids=pos, output_hidden_states=True, use_cache=False, **media)
            if step == 0:
                out["input_ids"].append(np.array(seq, np.int64))
                out["position_ids"].append(pos[:, 0].numpy())
                out["hidden_final"].append(r.hidden_states[-1][0].numpy())
                out["logits_last"].append(r.logits[0, -1:].numpy())
                lp = torch.log_softmax(r.logits[0].double(), -1)
                out["next_logprob"].append(lp[torch.arange(len(seq) - 1), torch.tensor(seq[1:])].float().numpy())
            if step < 12:
                greedy.append(int(r.logits[0, -1].argmax()))
                full.append(greedy[-1])
        out["greedy"].append(np.array([greedy], np.int64))
    cu = np.cumsum([0] + [len(v) for v in out["input_ids"]]).astype(np.int64)
    res = {k: np.concatenate(v, axis=1 if k == "position_ids" else 0) for k, v in out.items()}
    res.update(cu_seqlens=cu, image_grid_thw=np.array([GRID_I], np.int64), video_grid_thw=np.array([GRID_V], np.int64),
               second_per_grid_ts=np.array([SECONDS], np.float32))
    save_file({k: np.ascontiguousarray(v) for k, v in res.items()}, "expected.safetensors")
    for k, v in res.items():
        print(k, v.shape, v.dtype)
    print("greedy", res["greedy"].tolist(), "positions end", res["position_ids"][:, -14:].tolist())


if __name__ == "__main__":
    main()
