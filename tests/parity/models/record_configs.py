#!/usr/bin/env python3
"""Records how transformers reads configurations, and what RoPE scalings do to a tiny model's logits (fp32, eager attention).

usage: record_configs.py MODELS_DIR        needs torch, transformers, safetensors (2.11, 5.24, 0.8 for the committed files); MODELS_DIR is tests/parity/models

MODELS_DIR/configs.json          a list of {config, expected}: config.json as it may lie on the hub, and what the model of transformers takes from it
MODELS_DIR/rope_scaling.json     name -> changes to llama_grouped's config.json
MODELS_DIR/rope_scaling.safetensors    input_ids; <name>.near: logits at positions 0, 1, ...; <name>.far: at positions 32000, 32001, ...
"""
import copy, json, os, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

torch.set_num_threads(1)
MODELS = sys.argv[1]
T, FAR = 23, 32000


def read(config):
    config = copy.deepcopy(config)
    return AutoConfig.for_model(config.pop("model_type"), **config, attn_implementation="eager")


SMALL = dict(vocab_size=45043, hidden_size=64, intermediate_size=176, num_hidden_layers=4, num_attention_heads=32)
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
CONFIGS = [dict(model_type=model, **SMALL, **extra) for model, extra in [
    *[(model, {}) for model in ("llama", "mistral", "qwen2", "qwen3")],
    *[(model, dict(num_key_value_heads=None)) for model in ("llama", "qwen2", "qwen3")],
    *[(model, dict(sliding_window=None)) for model in ("mistral", "qwen2")],
    ("llama", dict(sliding_window=7, layer_types=["sliding_attention"] * 4)),
    ("llama", dict(rope_theta=500000.0, max_sequence_length=2048, pretraining_tp=2, rope_scaling=None, head_dim=None, attention_bias=True)),
    ("llama", dict(rope_theta=7.0, rope_parameters={"rope_theta": 9.0, "rope_type": "default"})),
    ("llama", dict(rope_theta=7.0, rope_parameters={"rope_type": "default"})),
    ("llama", dict(rope_theta=7.0, rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters={"rope_theta": 9.0, "rope_type": "default"})),
    ("llama", dict(rope_theta=7.0, rope_scaling={}, rope_parameters={"rope_theta": 9.0, "rope_type": "default"})),
    ("mistral", dict(layer_types=["full_attention"] * 4, sliding_window=16)),
    ("mistral", dict(head_dim=4, tie_word_embeddings=True)),
    ("qwen2", dict(use_sliding_window=True, max_window_layers=3)),
    ("qwen2", dict(use_sliding_window=True, sliding_window=None)),
    ("qwen2", dict(use_sliding_window=False, sliding_window=32, max_window_layers=1)),
    ("qwen2", dict(use_sliding_window=True, sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2, attention_bias=False, head_dim=6)),
    ("qwen2", dict(rope_theta=1e6, rope_scaling=YARN, max_position_embeddings=131072)),
    ("qwen3", dict(attention_bias=True, num_key_value_heads=8, use_sliding_window=True, max_window_layers=2, sliding_window=9, head_dim=16)),
]]


def seen(config):
    """What the model built from `config` does, read from its layers."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = [layer.self_attn for layer in model.model.layers]
    bias = lambda linear: linear.bias is not None
    windows = [getattr(layer, "sliding_window", config.sliding_window if config.model_type == "mistral" else None) or 0 for layer in layers]
    first, mlp = layers[0], model.model.layers[0].mlp
    return dict(num_key_value_heads=config.num_key_value_heads, head_dim=first.head_dim, max_position_embeddings=config.max_position_embeddings,
                rms_norm_eps=config.rms_norm_eps, rope_theta=config.rope_parameters["rope_theta"], rope_type=config.rope_parameters["rope_type"],
                tie_word_embeddings=config.tie_word_embeddings, attention_bias=bias(first.q_proj) and bias(first.k_proj) and bias(first.v_proj),
                attention_output_bias=bias(first.o_proj), mlp_bias=bias(mlp.down_proj), qk_norm=hasattr(first, "q_norm"), windows=windows)


with open(os.path.join(MODELS, "configs.json"), "w", encoding="utf-8") as out:
    records = [json.dumps({"config": config, "expected": seen(read(config))}) for config in CONFIGS]
    out.write("[\n" + ",\n".join(records) + "\n]\n")

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = {
    "none": {},
    "theta": {"rope_theta": 500000.0},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 3.0}, "max_position_embeddings": 10},
    "dynamic_within": {"rope_scaling": {"type": "dynamic", "factor": 3.0}, "max_position_embeddings": 40000},
    "llama3": {"rope_theta": 500000.0, "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 128}, "max_position_embeddings": 1024},
    "llama3_outside": {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 8192}, "original_max_position_embeddings": 256},
    "llama3_unsaid": {"rope_scaling": LLAMA3, "max_position_embeddings": 96},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, "max_position_embeddings": 256},
    "yarn_ratio": {"rope_scaling": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 64, "beta_fast": 8, "beta_slow": 2, "truncate": False},
                   "max_position_embeddings": 512},
    "yarn_mscale": {"rope_scaling": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 1.1}},
    "yarn_factor": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4, "attention_factor": 0.8}},
}
with open(os.path.join(MODELS, "llama_grouped", "config.json"), encoding="utf-8") as file:
    base = json.load(file)
weights = load_file(os.path.join(MODELS, "llama_grouped", "model.safetensors"))
torch.manual_seed(0)
expected = {"input_ids": torch.randint(0, base["vocab_size"], (1, T))}
for name, change in SCALINGS.items():
    config = {key: value for key, value in base.items() if key != "rope_parameters"} | {"rope_theta": 10000.0} | change
    for where, begin in (("near", 0), ("far", FAR)):
        model = AutoModelForCausalLM.from_config(read(config))
        model.load_state_dict(weights, strict=False)
        model.tie_weights()
        with torch.no_grad():
            expected[f"{name}.{where}"] = model(input_ids=expected["input_ids"], position_ids=torch.arange(begin, begin + T)[None]).logits
save_file(expected, os.path.join(MODELS, "rope_scaling.safetensors"))
with open(os.path.join(MODELS, "rope_scaling.json"), "w", encoding="utf-8") as out:
    out.write("{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(change)}" for name, change in SCALINGS.items()) + "\n}\n")
