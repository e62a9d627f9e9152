#!/usr/bin/env python3
"""What seven_billion.cpp measures, by transformers, PEFT and galore_torch (sdpa, bf16): the same shape, rows, micro-batches and columns. Needs a GPU.

usage: seven_billion_peer.py SETTING[:MICRO_BATCH] ...     lora-256 lora-256-checkpointed lora-256-tuned lora-256-tuned-checkpointed galore-128 galore-1024 svd

"tuned": LoRA's factors in bf16 (PEFT keeps them in fp32 by default). With fp32 factors the run is under bf16 autocast, as Trainer's bf16=True is.
GaLore steps each weight in its gradient's hook, as Trainer's layerwise optimizers do, with recomputed layers. Its first step would take an SVD of each of 224 matrices: they start from random
orthonormal projectors instead, and the setting svd times one of each shape and adds up.
"""
import importlib
import importlib.util
import statistics
import sys
import time
import types

import torch
from transformers import LlamaConfig, LlamaForCausalLM

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS, WIDTH, INNER, LENGTH, VOCABULARY, STEPS = 32, 4096, 11008, 1024, 32000, 7
GIB = 2**30


def product_speed():
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - start)


def random_model():
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=WIDTH // 128, num_key_value_heads=WIDTH // 128,
                         attn_implementation="sdpa", use_cache=False)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.to_empty(device="cuda")
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.fill_(1) if "norm" in name else p.normal_(0, 0.02)
    rotary = model.model.rotary_emb  # its buffer is no weight
    rotary.inv_freq = rotary.original_inv_freq = 10000.0 ** -(torch.arange(0, 128, 2, device="cuda").float() / 128)
    return model.train()


def galore_torch(module):
    """A module of the package, whose own __init__ wants bitsandbytes."""
    if "galore_torch" not in sys.modules:
        package = types.ModuleType("galore_torch")
        package.__path__ = importlib.util.find_spec("galore_torch").submodule_search_locations
        sys.modules["galore_torch"] = package
    return importlib.import_module("galore_torch." + module)


def layerwise_galore(model, rank):
    optimizers = {}
    for name, p in model.named_parameters():
        group = {"params": [p]}
        if p.dim() == 2 and any(linear in name for linear in LINEAR):
            group |= {"rank": rank, "update_proj_gap": 1000000, "scale": 0.25, "proj_type": "std"}
        optimizers[p] = galore_torch("adamw").AdamW([group], lr=1e-5, weight_decay=0)
        if "rank" in group:
            projector = galore_torch("galore_projector").GaLoreProjector(rank, update_proj_gap=1000000, scale=0.25, proj_type="std")
            rows, columns = p.shape
            projector.ortho_matrix = torch.linalg.qr(torch.randn(min(rows, columns), rank, device="cuda"))[0].to(torch.bfloat16)
            if rows >= columns:
                projector.ortho_matrix = projector.ortho_matrix.t().contiguous()
            # what GaLoreAdamW makes in its first step; step 1 then finds the projector there and asks for no SVD
            state = optimizers[p].state[p]
            state["step"], state["projector"] = 1, projector

        def hook(p):
            optimizers[p].step()
            optimizers[p].zero_grad(set_to_none=True)
        p.register_post_accumulate_grad_hook(hook)
    return optimizers


def measure(setting, micro, speed_of_products):
    torch.cuda.empty_cache()
    model = random_model()
    lora, galore = "lora" in setting, "galore" in setting
    tuned, checkpointed = "tuned" in setting, "checkpointed" in setting or galore
    if lora:
        from peft import LoraConfig, get_peft_model
        config = LoraConfig(r=256, lora_alpha=256, target_modules=list(LINEAR), task_type="CAUSAL_LM")
        model = get_peft_model(model, config, autocast_adapter_dtype=not tuned)
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if lora:
            model.enable_input_require_grads()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = layerwise_galore(model, int(setting.split("-")[1])) if galore else torch.optim.AdamW(trained, lr=1e-5, weight_decay=0, fused=True)
    accumulate = 1 if galore else max(1, 4 // micro)
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(STEPS):
        batches = [torch.randint(0, VOCABULARY, (2, micro, LENGTH), device="cuda") for _ in range(accumulate)]
        torch.cuda.synchronize()
        start = time.perf_counter()
        for ids, labels in batches:
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=lora and not tuned):
                loss = model(input_ids=ids, labels=labels, shift_labels=labels).loss / accumulate
            loss.backward()
        if not galore:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    speed = accumulate * micro * LENGTH / statistics.median(seconds[2:])
    weights = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER) + VOCABULARY * WIDTH
    attention = LAYERS * 2 * LENGTH * WIDTH
    flops = 6 * weights + 3 * attention if galore else 4 * weights + 6 * 256 * LAYERS * (4 * 2 * WIDTH + 3 * (WIDTH + INNER)) + 3 * attention
    print(f"peer {setting + ', micro-batch ' + str(micro):<38} {speed:10.0f} {100 * speed * flops / speed_of_products:8.1f} % {torch.cuda.max_memory_allocated() / GIB:10.2f} {seconds[0]:12.2f}", flush=True)


def time_svd():
    total = 0.0
    for rows, columns, count in ((WIDTH, WIDTH, 4 * LAYERS), (INNER, WIDTH, 3 * LAYERS)):
        gradient = torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16)
        torch.cuda.synchronize()
        start = time.perf_counter()
        galore_torch("galore_projector").GaLoreProjector(128).get_orthogonal_matrix(gradient, 128, type="right")
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        total += count * seconds
        print(f"peer svd of {rows} x {columns}: {seconds:.2f} s", flush=True)
    print(f"peer svd of all 224 matrices: {total:.0f} s, added up", flush=True)


def main():
    speed = product_speed()
    print(f"peer: product of bf16 matrices {speed / 1e12:.0f} TFLOP/s, torch {torch.__version__}", flush=True)
    for argument in sys.argv[1:]:
        setting, _, micro = argument.partition(":")
        try:
            time_svd() if setting == "svd" else measure(setting, int(micro or 1), speed)
        except torch.cuda.OutOfMemoryError as error:
            print(f"peer {argument}: {str(error).splitlines()[0][:120]}", flush=True)


main()
