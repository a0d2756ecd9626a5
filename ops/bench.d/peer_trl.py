"""GRPO steps of TRL's GRPOTrainer on a checkpoint folder, for ops/bench.d/grpo: JSON lines, one a step.

usage: peer_trl.py MODEL PROMPTS.jsonl GROUP TOKENS STEPS THREADS
Every line of PROMPTS has a "text"; each is one step's prompt. Float32 on the CPU, greedy KL and clipping as in the
recipe that ops/bench.d/grpo writes: beta 0.04, one inner step, temperature 1, top_p 1.
"""
import json
import sys
import tempfile
import time

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

model, prompts, group, tokens, steps, threads = sys.argv[1:4] + sys.argv[4:]
group, tokens, steps, threads = int(group), int(tokens), int(steps), int(threads)
torch.set_num_threads(threads)
rows = [json.loads(line)["text"] for line in open(prompts)][:steps]


def reward(completions, **_):
    return [float((7 * c.count("a") + len(c)) % 5) for c in completions]


class Clock(TrainerCallback):
    def __init__(self):
        self.start = None

    def on_step_begin(self, *_, **__):
        self.start = time.monotonic()

    def on_step_end(self, args, state, *_, **__):
        print(json.dumps({"step": state.global_step, "seconds": time.monotonic() - self.start}), flush=True)


with tempfile.TemporaryDirectory() as out:
    config = GRPOConfig(
        output_dir=out, use_cpu=True, bf16=False, num_generations=group, per_device_train_batch_size=group,
        gradient_accumulation_steps=1, max_completion_length=tokens, max_steps=steps, beta=0.04, temperature=1.0,
        top_p=1.0, learning_rate=1e-6, lr_scheduler_type="constant", max_grad_norm=5.0, save_strategy="no",
        report_to=[], logging_strategy="no", gradient_checkpointing=False, disable_tqdm=True, seed=1,
        model_init_kwargs={"dtype": "float32"}, generation_kwargs={"min_new_tokens": tokens})
    trainer = GRPOTrainer(model=model, reward_funcs=reward, args=config,
                          train_dataset=Dataset.from_dict({"prompt": rows}), callbacks=[Clock()])
    trainer.train()
