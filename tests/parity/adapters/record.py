#!/usr/bin/env python3
"""Records what PEFT's LoRA variants give on the tiny models of tests/parity/models, in fp32.

    record.py saved MODELS OUT      OUT/<case>/: an adapter that PEFT saved, and in OUT/saved.safetensors what the model with it computes: <case>.logits, and for
                                    some cases <case>.merged.<module>, the weight after merge_and_unload
    record.py written MODELS OUT    logits of PEFT with the adapters OUT/written/<case> that dapt wrote (tests/parity/adapters_test.cpp, test "[.record]"), loaded
                                    onto unchanged models, to OUT/written.safetensors; fails where PEFT finds a key missing or unexpected
    record.py train OUT             losses of 20 AdamW steps of each variant on the tiny Llama of tests/parity/train, to OUT/train.json

Needs torch 2.11, transformers 5.24, peft 0.21, safetensors. Weights that are not recorded come from `formula` of tests/parity/train/record.py.
"""
import importlib.util
import json
import pathlib
import shutil
import sys
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("train_record", pathlib.Path(__file__).resolve().parent.parent / "train" / "record.py")
train_record = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train_record)

# case: model, LoraConfig, modules whose merged weight is recorded
SAVED = {
    "patterns": ("mistral_window", dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
                                        # in the order of the alphabet: PEFT sorts the keys when it saves, and the first that matches counts
                                        rank_pattern={"^model.layers.0.self_attn.q_proj": 5, r"layers\.1\..*_proj": 4, "up_proj": 2},
                                        alpha_pattern={r"model\.layers\.\d\.mlp\.(up|down)_proj": 9, "v_proj": 2}), []),
    "regex": ("mistral_window", dict(r=2, lora_alpha=6, target_modules=r".*\.layers\.[01]\.(self_attn\.(q|o)_proj|mlp\.(?!up)\w+_proj)", exclude_modules=r".*\.0\.mlp\..*"), []),
    "layers": ("llama_bias", dict(r=2, lora_alpha=6, target_modules=["q_proj", "k_proj", "up_proj", "mlp.down_proj"], exclude_modules=["k_proj", "mlp.down_proj"],
                                    layers_to_transform=[1]), []),
    "dora": ("llama_bias", dict(r=3, lora_alpha=4, use_rslora=True, use_dora=True, target_modules="all-linear"), ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"]),
    "modules": ("mistral_window", dict(r=2, lora_alpha=4, target_modules=["q_proj", "lm_head"], modules_to_save=["embed_tokens", "lm_head", "norm"]), []),
    "modules_tied": ("llama_grouped", dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]), []),
    "pissa_converted": ("llama_bias", dict(r=3, lora_alpha=4, use_rslora=True, init_lora_weights="pissa", target_modules=["q_proj", "down_proj"]), []),
    "pissa": ("llama_bias", dict(r=3, lora_alpha=4, init_lora_weights="pissa", target_modules=["q_proj", "down_proj"]), ["model.layers.0.self_attn.q_proj"]),
    "modules_tied_ensured": ("llama_grouped", dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["lm_head"], ensure_weight_tying=True), []),
}


def load(models, name):
    return AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32, attn_implementation="eager").eval()


def input_ids(models, name):
    return load_file(models / name / "expected.safetensors")["input_ids"]


@torch.no_grad()
def saved(models, out):
    expected = {}
    for case, (name, config, merged) in SAVED.items():
        torch.manual_seed(len(expected))
        folder, initial = out / case, out / "initial"
        shutil.rmtree(folder, ignore_errors=True)
        model = get_peft_model(load(models, name), LoraConfig(task_type="CAUSAL_LM", **config))
        if case == "pissa_converted":
            model.peft_config["default"].init_lora_weights = True  # as PEFT's documentation of the conversion asks
            model.save_pretrained(initial)
        changed = {}
        for key, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            change = torch.randn_like(parameter) * 0.2
            if case == "modules_tied" and "modules_to_save" in key:
                change = changed.setdefault("tied", change)  # both copies stay equal
            parameter.add_(change)
        expected[case + ".logits"] = model(input_ids=input_ids(models, name)).logits
        extra = dict(path_initial_model_for_weight_conversion=str(initial)) if case == "pissa_converted" else {}
        model.save_pretrained(folder, **extra)
        if case == "modules":  # what PEFT itself makes of the file
            again = PeftModel.from_pretrained(load(models, name), folder)
            assert torch.equal(again(input_ids=input_ids(models, name)).logits, expected[case + ".logits"])
        shutil.rmtree(initial, ignore_errors=True)
        (folder / "README.md").unlink()
        weights = dict(model.merge_and_unload().named_modules()) if merged else {}
        for module in merged:
            expected[f"{case}.merged.{module}"] = weights[module].weight
        print(case, [*load_file(folder / "adapter_model.safetensors")][:3])
    save_file({key: value.detach().contiguous().clone() for key, value in expected.items()}, out / "saved.safetensors")


@torch.no_grad()
def written(models, out):
    expected = {}
    for folder in sorted((out / "written").iterdir()):
        name = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            model = PeftModel.from_pretrained(load(models, name), folder).eval()
        keys = {key.replace(".default", "").replace(".modules_to_save", "") for key, parameter in model.state_dict().items()
                if "lora_" in key or "modules_to_save" in key}
        found = {key.removesuffix(".weight") for key in load_file(folder / "adapter_model.safetensors")}
        assert {key.removesuffix(".weight") for key in keys} == found, keys ^ found
        expected[folder.name + ".logits"] = model(input_ids=input_ids(models, name)).logits
    save_file({key: value.contiguous().clone() for key, value in expected.items()}, out / "written.safetensors")
    print(*expected)


# case: lr, LoraConfig, lr of B over that of A, lr of modules_to_save over that of A
TRAINED = {
    "rslora": (5e-3, dict(use_rslora=True), 1, 1),
    "dora": (1e-2, dict(use_dora=True), 1, 1),
    "pissa": (2e-3, dict(init_lora_weights="pissa"), 1, 1),
    "loraplus": (2e-3, dict(), 8, 1),
    "loraplus_dora": (2e-3, dict(use_dora=True), 8, 1),
    "modules_to_save": (5e-3, dict(modules_to_save=["embed_tokens", "lm_head"]), 1, 0.1),
}


def train(out):
    from peft.optimizers import create_loraplus_optimizer

    recorded = {}
    for case, (lr, config, ratio, saved_factor) in TRAINED.items():
        model = get_peft_model(train_record.tiny_model(), LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", **config))
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if ".lora_A." in key and case != "pissa":
                    plain = key.removeprefix("base_model.model.").replace(".lora_A.default.", ".lora_A.")
                    parameter.copy_(train_record.formula(plain, tuple(parameter.shape), 1 / parameter.shape[1] ** 0.5))
        trained = [(key, parameter) for key, parameter in model.named_parameters() if parameter.requires_grad]
        if ratio != 1:
            optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=lr, loraplus_lr_ratio=ratio)
        else:
            groups = [{"params": [p for key, p in trained if ("modules_to_save" in key) == own], "lr": lr * (saved_factor if own else 1)} for own in (False, True)]
            optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)
        losses = train_record.train(model, optimizer, train_record.tiny_windows())
        recorded[case] = {"lr": lr, "losses": losses}
        print(case, losses[0], losses[-1])
    (out / "train.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    {"saved": saved, "written": written, "train": train}[sys.argv[1]](*map(pathlib.Path, sys.argv[2:]))
