/* LoRA adapters in PEFT's layout (adapter_config.json, adapter_model.safetensors): merging them into their base. */
#ifndef MULL_ENGINE_TRAIN_LORA_H
#define MULL_ENGINE_TRAIN_LORA_H

#include "engine/train/params.h"

/* w += alpha / rank B A for every adapted tensor; the adapters stay as they are. */
void mull_lora_merge(mull_pool *pool, mull_params *p, double alpha);
/* Writes the model folder base with the adapter folder merged in as the new folder out; half: bf16 tensors, else
 * float32. out appears whole or not at all. */
int mull_lora_merge_folder(const char *base, const char *adapter, const char *out, bool half, mull_error *err);

#endif
