"""Records what galore_torch, PEFT and torch give, for tests/parity/*_test.cpp.

    record.py galore FILE.safetensors            weights after GaLoreAdamW steps on single matrices
    record.py tiny FILE.json                     losses of a tiny random Llama
    record.py smollm2 MODEL_DIR PAGES FILE.json  losses of SmolLM2 on the first pages of a corpus (JSON lines with "text")

Needs torch, transformers, peft, galore_torch, safetensors. Every number that is not recorded (weights, gradients, token ids of the tiny model) comes from
`formula`, an integer hash that the C++ side computes alike. Files *_amd are the same of an AMD EPYC (Zen 4), the others of an Intel Xeon (Sapphire Rapids):
where an SVD is in play the reference moves from one to the other, and the tests grant twice of that.
"""
import json
import sys

import numpy as np
import torch
import torch.nn.functional as F

torch.set_num_threads(1)
MASK = (1 << 64) - 1
STEPS = 20


def fnv(name):
    value = 14695981039346656037
    for byte in name.encode():
        value = ((value ^ byte) * 1099511628211) & MASK
    return value


def hashes(name, count):
    """splitmix64 of FNV-1a(name) + i * golden ratio, for i in 0 .. count-1."""
    with np.errstate(over="ignore"):
        z = np.uint64(fnv(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def formula(name, shape, scale=1.0, shift=0.0):
    """fp32 numbers in [shift - scale, shift + scale): the upper 24 bits of the hash as a fraction, in double, then rounded."""
    unit = (hashes(name, int(np.prod(shape))) >> np.uint64(40)).astype(np.float64) / 2**24
    return torch.from_numpy(((unit * 2 - 1) * scale + shift).astype(np.float32).reshape(shape))


# options of GaLoreAdamW and the steps that are recorded, by the end of a tensor's name: the defaults, and others that each show in the weights
GALORE_OPTIONS = {"": (dict(weight_decay=0.1), (1, 8, 30)), ".other": (dict(betas=(0.7, 0.9), eps=1e-2, weight_decay=0.5), (30,))}


def galore(path):
    from galore_torch import GaLoreAdamW
    from safetensors.torch import save_file

    recorded = {}
    for proj_type in ["std", "reverse_std", "left", "right", "full"]:
        for m, n in [(12, 20), (20, 12), (16, 16)]:
            name = f"{proj_type}.{m}x{n}"
            for ending, (options, steps) in GALORE_OPTIONS.items():
                weight = torch.nn.Parameter(formula(name + ".weight", (m, n), 0.1))
                group = {"params": [weight], "rank": 4, "update_proj_gap": 7, "scale": 0.25, "proj_type": proj_type}
                optimizer = GaLoreAdamW([group], lr=1e-2, no_deprecation_warning=True, **options)
                for step in range(1, 31):
                    weight.grad = formula(f"{name}.gradient.{step}", (m, n))
                    optimizer.step()
                    if step in steps:
                        recorded[f"{name}.step{step}{ending}"] = weight.detach().clone()
    save_file(recorded, path)


def tiny_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=128, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False, attn_implementation="eager")
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name
            parameter.copy_(formula(name, tuple(parameter.shape), 0.1, 1.0 if norm else 0.0))
    return model


def tiny_windows():
    """Windows of two micro-batches of two rows of 32 tokens, each row supervised on its first 3 + 7 * row tokens: an uneven split."""
    for step in range(STEPS):
        micro_batches = []
        for micro in range(2):
            ids = torch.from_numpy((hashes(f"tokens.{step % 5}.{micro}", 2 * 33) % np.uint64(256)).astype(np.int64).reshape(2, 33))
            labels = ids[:, 1:].clone()
            for row in range(2):
                labels[row, 3 + 7 * (2 * micro + row):] = -100
            micro_batches.append((ids[:, :-1], labels))
        yield micro_batches


def train(model, optimizer, windows):
    losses = []
    for micro_batches in windows:
        tokens = sum(int((labels != -100).sum()) for _, labels in micro_batches)
        total = 0.0
        for ids, labels in micro_batches:
            logits = model(input_ids=ids).logits
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
            (loss / tokens).backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total / tokens)
    return losses


def galore_groups(model, layers):
    projected, others = [], []
    for name, parameter in model.named_parameters():
        chosen = parameter.dim() == 2 and ("attn" in name or "mlp" in name) and any(f".layers.{layer}." in name for layer in layers)
        (projected if chosen else others).append(parameter)
    return projected, others


def run_settings(make_model, make_windows, lrs, rank, galore_rank, galore_layers):
    from galore_torch import GaLoreAdamW
    from peft import LoraConfig, get_peft_model

    losses = {}
    model = get_peft_model(make_model(), LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                plain = name.removeprefix("base_model.model.").replace(".lora_A.default.", ".lora_A.")
                parameter.copy_(formula(plain, tuple(parameter.shape), 1 / parameter.shape[1] ** 0.5))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses["lora"] = train(model, torch.optim.AdamW(trained, lr=lrs["lora"], weight_decay=0.0), make_windows())

    model = make_model()
    losses["full"] = train(model, torch.optim.AdamW(model.parameters(), lr=lrs["full"], weight_decay=0.01), make_windows())

    model = make_model()
    projected, others = galore_groups(model, galore_layers)
    groups = [{"params": others}, {"params": projected, "rank": galore_rank, "update_proj_gap": 7, "scale": 0.25, "proj_type": "std"}]
    losses["galore"] = train(model, GaLoreAdamW(groups, lr=lrs["galore"], no_deprecation_warning=True), make_windows())
    return losses


def tiny(path):
    lrs = {"lora": 1e-2, "full": 1e-3, "galore": 1e-3}
    losses = run_settings(tiny_model, tiny_windows, lrs, rank=4, galore_rank=4, galore_layers=range(3))
    json.dump({"lr": lrs, "losses": losses}, open(path, "w"), indent=1)


def smollm2(folder, pages, path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for line in open(pages, encoding="utf-8"):
        ids = tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"]
        if len(ids) >= 97:
            rows.append(ids[:97])
        if len(rows) == STEPS:
            break
    windows = lambda: ([(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))] for ids in rows)
    load = lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    # Adam's first steps are +-lr whatever the gradient's size, so at a large lr the sign of a gradient that is all rounding shows in the loss.
    lrs = {"lora": 1e-3, "full": 2e-5, "galore": 2e-5}
    losses = run_settings(load, windows, lrs, rank=8, galore_rank=16, galore_layers=[0, 15, 29])
    json.dump({"lr": lrs, "rows": rows, "losses": losses}, open(path, "w"))


if __name__ == "__main__":
    {"galore": galore, "tiny": tiny, "smollm2": smollm2}[sys.argv[1]](*sys.argv[2:])
