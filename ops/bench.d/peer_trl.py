"""The peer of ops/bench.d/grpo: GRPO steps of TRL's trainer on the same checkpoint, prompts and sizes.

    peer_trl.py MODEL PROMPTS.jsonl THREADS PROMPTS_A_STEP GENERATIONS TOKENS LOSS STEPS OUT

One JSON line: {"versions": .., "seconds": [a number a step], "cpu_seconds": a step, "completion_tokens": mean length of a completion}. The first
step is not counted. Rewards are the share of the letter e, so that groups have spread; they cost nothing.
"""
import json
import sys
import time

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Clock(TrainerCallback):
    def __init__(self):
        self.at = []

    def on_step_begin(self, args, state, control, **more):
        if not self.at:
            self.at.append((time.perf_counter(), time.process_time()))

    def on_step_end(self, args, state, control, **more):
        self.at.append((time.perf_counter(), time.process_time()))


def spread(completions, **more):
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [text.count("e") / (1 + len(text)) + len(text) / 1000 for text in texts]


def main():
    path, prompts, threads, batch, group, tokens, loss, steps, out = sys.argv[1:]
    threads, batch, group, tokens, steps = map(int, (threads, batch, group, tokens, steps))
    torch.set_num_threads(threads)
    rows = [json.loads(line)["messages"][0]["content"] for line in open(prompts, encoding="utf-8")]
    data = Dataset.from_dict({"prompt": [f"<|im_start|>user\n{row}<|im_end|>\n<|im_start|>assistant\n" for row in rows]})
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
    for name, p in model.named_parameters():
        p.requires_grad_("visual" not in name)
    clock = Clock()
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=spread,
        train_dataset=data,
        callbacks=[clock],
        args=GRPOConfig(
            output_dir=out, per_device_train_batch_size=batch * group, num_generations=group, loss_type=loss, beta=0.04,
            max_completion_length=tokens, temperature=1.0, top_p=1.0, top_k=0, learning_rate=1e-6, max_steps=steps + 1,
            bf16=False, use_cpu=True, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
            gradient_checkpointing=False, seed=1,
        ),
    )
    trainer.train()
    lengths = [h["completions/mean_length"] for h in trainer.state.log_history if "completions/mean_length" in h]
    print(json.dumps({
        "versions": {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
        "seconds": [b[0] - a[0] for a, b in zip(clock.at[1:], clock.at[2:])],
        "cpu_seconds": (clock.at[-1][1] - clock.at[1][1]) / steps,
        "completion_tokens": sum(lengths[1:]) / max(1, len(lengths) - 1),
    }))


if __name__ == "__main__":
    main()
