#!/usr/bin/env python3
"""Records tiny random Llama, Mistral and Qwen models as transformers computes them in fp32 (eager attention), and LoRA adapters that PEFT saved.

usage: record_tiny.py OUT_DIR        needs torch, transformers, peft (2.11, 5.24, 0.21 for the committed files)

OUT_DIR/<variant>/config.json, model.safetensors    the model folder
OUT_DIR/<variant>/expected.safetensors              input_ids, labels (shifted), logits, loss (sum), grad.<parameter>; for two documents a row (the second begins
                                                    at `document_begin`): isolated_logits, attention cut by a 4-D mask, positions restarted
OUT_DIR/<variant>/adapter/                          PEFT's folder; adapted_logits and adapted_loss are in expected.safetensors
"""
import os, shutil, sys
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM)

torch.set_num_threads(1)
OUT = sys.argv[1]
B, T, DOCUMENT = 2, 23, 9
COMMON = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, attn_implementation="eager")
VARIANTS = {
    # head_dim is not hidden_size / heads; tied; odd vocabulary
    "llama_grouped": (LlamaForCausalLM, LlamaConfig(vocab_size=67, num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5,
                                                    tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **COMMON),
                      dict(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj", "down_proj"])),
    # biases everywhere, untied, no grouping, large theta
    "llama_bias": (LlamaForCausalLM, LlamaConfig(vocab_size=45, num_attention_heads=3, num_key_value_heads=3, rms_norm_eps=1e-6, attention_bias=True, mlp_bias=True,
                                                 tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, **COMMON),
                   dict(r=2, lora_alpha=4, use_rslora=True, target_modules=["k_proj", "o_proj", "lm_head"])),
    # the window bites
    "mistral_window": (MistralForCausalLM, MistralConfig(vocab_size=53, num_attention_heads=6, num_key_value_heads=2, head_dim=4, rms_norm_eps=1e-5, sliding_window=5,
                                                         tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **COMMON),
                       dict(r=4, lora_alpha=8, target_modules="all-linear")),
    # biases of q, k and v; windows from the second layer on; tied; odd vocabulary
    "qwen2_window": (Qwen2ForCausalLM, Qwen2Config(vocab_size=59, num_attention_heads=6, num_key_value_heads=2, rms_norm_eps=1e-6, use_sliding_window=True, sliding_window=6,
                                                   max_window_layers=1, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, **COMMON),
                     dict(r=2, lora_alpha=3, target_modules=["q_proj", "up_proj"])),
    # norms of queries and keys, head_dim of its own, four biases, a window in the first layer only, YaRN, untied
    "qwen3_yarn": (Qwen3ForCausalLM, Qwen3Config(vocab_size=49, num_attention_heads=3, num_key_value_heads=1, head_dim=12, rms_norm_eps=1e-6, attention_bias=True,
                                                 use_sliding_window=True, sliding_window=7, layer_types=["sliding_attention", "full_attention"], tie_word_embeddings=False,
                                                 rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}, **COMMON),
                   dict(r=2, lora_alpha=3, target_modules=["v_proj", "gate_proj"])),
}


def loss_sum(logits, labels):
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")


def block_mask(window):
    """What position t sees: its own document, and of that a window."""
    t = torch.arange(T)
    seen = (t[None, :] <= t[:, None]) & ((t[None, :] >= DOCUMENT) == (t[:, None] >= DOCUMENT))
    if window:
        seen &= t[:, None] - t[None, :] < window
    return torch.zeros(T, T).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None].expand(B, 1, T, T)


def block_masks(config):
    window = getattr(config, "sliding_window", None)
    if config.model_type in ("qwen2", "qwen3"):
        return {"full_attention": block_mask(None), "sliding_attention": block_mask(window)}
    return block_mask(window)


for number, (name, (cls, config, lora)) in enumerate(VARIANTS.items()):
    torch.manual_seed(number)
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    model = cls(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in key else 0.0, 0.2)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "generation_config.json"))
    input_ids = torch.randint(0, config.vocab_size, (B, T))
    labels = torch.cat([input_ids[:, 1:], torch.full((B, 1), -100)], 1)
    labels[0, 4] = -100
    logits = model(input_ids=input_ids).logits
    loss = loss_sum(logits, labels)
    loss.backward()
    expected = {"input_ids": input_ids, "labels": labels, "logits": logits.detach(), "loss": loss.detach(), "document_begin": torch.tensor(DOCUMENT)}
    expected |= {"grad." + key: parameter.grad for key, parameter in model.named_parameters()}
    with torch.no_grad():
        positions = torch.cat([torch.arange(DOCUMENT), torch.arange(T - DOCUMENT)])[None].expand(B, T)
        expected["isolated_logits"] = model(input_ids=input_ids, position_ids=positions, attention_mask=block_masks(config)).logits
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.3)
        expected["adapted_logits"] = adapted(input_ids=input_ids).logits
        expected["adapted_loss"] = loss_sum(expected["adapted_logits"], labels)
        adapted.save_pretrained(os.path.join(folder, "adapter"))
    os.remove(os.path.join(folder, "adapter", "README.md"))
    save_file({key: value.contiguous().clone() for key, value in expected.items()}, os.path.join(folder, "expected.safetensors"))
    print(name, "loss", loss.item(), "adapted", expected["adapted_loss"].item())
