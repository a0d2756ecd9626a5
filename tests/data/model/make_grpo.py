#!/usr/bin/env python3
"""Writes grpo_trl.json: losses, gradients and advantages that TRL's own functions give (see README.md).

usage: make_grpo.py CHECKPOINT_DIR     the folder of model `own` of configs.json, by the weight formula
Needs torch, transformers and trl (made with torch 2.15.0, transformers 5.24.0, trl 1.16.0, float32, CPU).

The loss is GRPOTrainer._compute_loss on a stand-in for the trainer that has its settings and takes log-probs from the
model, so that backward reaches the vision tower. The advantages are the lines of GRPOTrainer that make them from
rewards, run as they stand in the installed package.
"""
import collections
import inspect
import json
import sys
import textwrap
import types

import numpy as np
import torch
import trl
import transformers
from make_expected import START, IMAGE, VIDEO, uniform

MASK = 2**64 - 1
GRIDS = [(IMAGE, (1, 6, 10)), (IMAGE, (1, 18, 12)), (VIDEO, (2, 12, 10))]
TYPES = ["grpo", "dr_grpo", "bnpo", "dapo"]
# beta, epsilon, epsilon_high, temperature, with log-probs of an earlier policy
SETTINGS = [(0.04, 0.2, 0.2, 1.0, True), (0.0, 0.1, 0.28, 0.7, True), (0.3, 0.2, 0.2, 1.3, False)]
LIMIT = 12
SOME = ["visual.patch_embed.proj.weight", "visual.blocks.0.attn.qkv.weight", "visual.merger.mlp.2.bias",
        "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"]


def splitmix(x):
    z = (x + 0x9e3779b97f4a7c15) & MASK
    z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & MASK
    z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & MASK
    return z ^ (z >> 31)


def prompt():
    """tests/engine/tower_case.h"""
    ids = []
    for m, (token, (t, h, w)) in enumerate(GRIDS):
        ids += [splitmix(1000 * m + i) % 200 for i in range(4 + m)] + [START] + [token] * (t * h * w // 4)
    return ids + [splitmix(9000 + i) % 200 for i in range(9)]


def positions(ids):
    pos, top, i, grids = [], 0, 0, iter(GRIDS)
    while i < len(ids):
        if ids[i] in (IMAGE, VIDEO):
            token, (t, h, w) = next(grids)
            pace = 2 if token == VIDEO else 0
            block = [(top + a * pace, top + b, top + c) for a in range(t) for b in range(h // 2) for c in range(w // 2)]
            top = max(max(p) for p in block) + 1
            pos += block
            i += len(block)
        else:
            pos.append((top,) * 3)
            top += 1
            i += 1
    return torch.tensor(np.array(pos, np.int64).T)[:, None]


def completions(eos):
    """Three: of full length, with an end in the middle (what lies behind it does not count), and a short one."""
    make = lambda seed, n: [splitmix(seed + i) % 200 for i in range(n)]
    return [make(100, LIMIT), make(200, 4) + [eos] + make(300, 3), make(400, 2) + [eos]]


class Policy:
    def __init__(self, folder):
        self.model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager").train()
        rows = [sum(t * h * w for k, (t, h, w) in GRIDS if k == kind) for kind in (IMAGE, VIDEO)]
        take = lambda name, n: torch.tensor(uniform(7, name, n * 1176).reshape(n, 1176) * np.float32(2))
        self.media = {"pixel_values": take("pixel_values", rows[0]),
                      "image_grid_thw": torch.tensor([g for k, g in GRIDS if k == IMAGE]),
                      "pixel_values_videos": take("pixel_values_videos", rows[1]),
                      "video_grid_thw": torch.tensor([g for k, g in GRIDS if k == VIDEO])}
        self.eos = self.model.generation_config.eos_token_id[0]

    def logps(self, temperature):
        """[completions, LIMIT] log-probs of the completions' tokens and their entropies, 0 where there are none."""
        start, logps, entropies = prompt(), [], []
        for c in completions(self.eos):
            ids = start + c
            out = self.model(input_ids=torch.tensor([ids]), position_ids=positions(ids), use_cache=False, **self.media)
            lp = torch.log_softmax(out.logits[0, len(start) - 1:-1] / temperature, -1)
            pad = (0, LIMIT - len(c))
            logps.append(torch.nn.functional.pad(lp[torch.arange(len(c)), torch.tensor(c)], pad))
            entropies.append(torch.nn.functional.pad(-(lp.exp() * lp).sum(-1), pad).detach())
        return torch.stack(logps), torch.stack(entropies)


def stand_in(kind, beta, low, high, policy, temperature):
    same = lambda x, **_: x
    return types.SimpleNamespace(
        loss_type=kind, beta=beta, epsilon_low=low, epsilon_high=high, max_completion_length=LIMIT,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token", use_vllm=False,
        vllm_importance_sampling_correction=False, aux_loss_enabled=False, _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1, model=types.SimpleNamespace(training=True),
        args=types.SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        accelerator=types.SimpleNamespace(num_processes=1, gather=same, reduce=same),
        _metrics={"train": collections.defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (*policy.logps(temperature), None))


def figures(g):
    x = g.double().flatten()
    return [float(f"{v:.9g}") for v in (x.norm(), x.sum(), x[0], x[len(x) // 2], x[-1])]


def published(name):
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def loss_case(policy, kind, setting, old, ref, advantages, every):
    beta, low, high, temperature, with_old = setting
    done = completions(policy.eos)
    ids, mask = torch.zeros(len(done), LIMIT, dtype=torch.long), torch.zeros(len(done), LIMIT)
    for s, c in enumerate(done):
        ids[s, :len(c)] = torch.tensor(c)
        mask[s, :(c.index(policy.eos) + 1 if policy.eos in c else len(c))] = 1
    start = torch.tensor([prompt()] * len(done))
    inputs = {"prompt_ids": start, "prompt_mask": torch.ones_like(start), "completion_ids": ids,
              "completion_mask": mask, "advantages": torch.tensor(advantages), "num_items_in_batch": mask.sum()}
    if with_old:
        inputs["old_per_token_logps"] = old[temperature]
    if beta:
        inputs["ref_per_token_logps"] = ref[temperature]
    trainer = stand_in(kind, beta, low, high, policy, temperature)
    policy.model.zero_grad()
    loss = trl.GRPOTrainer._compute_loss(trainer, policy.model, inputs)
    loss.backward()
    grads = {published(n): figures(p.grad) for n, p in policy.model.named_parameters() if p.grad is not None}
    keep = {n: v for n, v in grads.items() if n in SOME or (every and n.startswith("visual."))}
    assert len(keep) >= len(SOME)
    clipped = {k: trainer._metrics["train"][f"clip_ratio/{k}_mean"][0] for k in ("low", "high")}
    return {"type": kind, "beta": beta, "epsilon": low, "epsilon_high": high, "temperature": temperature,
            "old": with_old, "loss": loss.item(), "clipped": clipped, "grad": keep}


def advantages(rewards, generations, scale):
    source = inspect.getsource(trl.GRPOTrainer._generate_and_score_completions)
    lines = source[source.index("        unscorable_mask ="):source.index("        # Slice to keep only the local part")]
    me = types.SimpleNamespace(multi_objective_aggregation="sum_then_normalize", scale_rewards=scale,
                               reward_weights=torch.ones(1), num_generations=generations)
    names = dict(vars(inspect.getmodule(trl.GRPOTrainer)), self=me, device="cpu", num_generations=generations,
                 rewards_per_func=torch.tensor(rewards)[:, None])
    exec(textwrap.dedent(lines), names)
    return [float(f"{v:.9g}") for v in names["advantages"].tolist()]


def main():
    policy = Policy(sys.argv[1])
    given, old, ref = [0.9, -1.3, 0.4], {}, {}
    noise = lambda name, size: torch.tensor(uniform(11, name, 3 * LIMIT).reshape(3, LIMIT) * np.float32(size))
    for t in sorted({s[3] for s in SETTINGS}):
        with torch.no_grad():
            now = policy.logps(t)[0]
        # Far enough for ratios to leave the clip on both sides.
        old[t], ref[t] = now + noise("old", 0.5), now + noise("ref", 0.8)
    cases = [loss_case(policy, kind, s, old, ref, given, kind == "grpo" and i == 0)
             for kind in TYPES for i, s in enumerate(SETTINGS)]
    assert any(c["clipped"]["low"] for c in cases) and any(c["clipped"]["high"] for c in cases)
    flat = lambda x: [float(f"{v:.9g}") for s, c in enumerate(completions(policy.eos)) for v in x[s, :len(c)].tolist()]
    rewards = [0.0, 1.0, 0.5, 1.5, 2.0, 2.0, 2.0, 2.0, -1.0, 0.25, 0.25, 3.0, 0.0, 0.0, 0.0, 1e-3]
    out = {"versions": {m.__name__: m.__version__ for m in (torch, transformers, trl)},
           "completions": completions(policy.eos), "advantages": given, "max_completion_length": LIMIT,
           "old_logps": {str(t): flat(x) for t, x in old.items()},
           "ref_logps": {str(t): flat(x) for t, x in ref.items()}, "cases": cases,
           "groups": {"rewards": rewards, "generations": 4,
                      **{s: advantages(rewards, 4, s) for s in ("group", "batch", "none")}}}
    with open("grpo_trl.json", "w") as f:
        json.dump(out, f, indent=0, separators=(",", ":"))
        f.write("\n")
    for c in cases:
        print(c["type"], c["beta"], c["temperature"], c["loss"], c["clipped"])


if __name__ == "__main__":
    main()
