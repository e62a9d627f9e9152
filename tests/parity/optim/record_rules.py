#!/usr/bin/env python3
"""Records 30 steps of Lion, Adafactor and APOLLO on single tensors, for tests/parity/rules_test.cpp.

usage: record_rules.py OUT_FILE        needs torch 2.11, lion-pytorch 0.2.5, transformers 5.24, apollo-torch 1.0.3 and safetensors

Weights and gradients are formulas of their names (tests/parity/train/record.py), so only the weights after the steps 1, 8 and 30 are recorded.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "train"))
import torch  # noqa: E402
from apollo_torch import APOLLOAdamW  # noqa: E402
from lion_pytorch import Lion  # noqa: E402
from record import formula  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers.optimization import Adafactor  # noqa: E402

SHAPES = {"wide": (12, 20), "tall": (20, 12), "square": (16, 16), "vector": (24,)}
APOLLO = {"rank": 4, "update_proj_gap": 7, "scale": 2.0, "proj": "random", "proj_type": "std"}


def adafactor(**options):
    return lambda p: Adafactor([p], lr=1e-2, relative_step=False, **{"scale_parameter": False, "weight_decay": 0.1, **options})


RULES = {
    "lion": lambda p: Lion([p], lr=1e-2, weight_decay=0.1),
    "adafactor": adafactor(),
    "adafactor_momentum": adafactor(beta1=0.9, scale_parameter=True),
    "apollo": lambda p: APOLLOAdamW([{"params": [p], "scale_type": "channel", **APOLLO}], lr=1e-2, weight_decay=0.1),
    "apollo_mini": lambda p: APOLLOAdamW([{"params": [p], "scale_type": "tensor", **APOLLO, "rank": 1}], lr=1e-2, weight_decay=0.1),
}

recorded = {}
for rule, make in RULES.items():
    for shape_name, shape in SHAPES.items():
        if rule.startswith("apollo") and len(shape) == 1:
            continue
        name = f"{rule}.{shape_name}"
        weight = torch.nn.Parameter(formula(name + ".weight", shape, 0.1))
        optimizer = make(weight)
        for step in range(1, 31):
            # gradients that grow now and then, so that APOLLO's limiter acts
            weight.grad = formula(f"{name}.gradient.{step}", shape, 3.0 if step % 5 == 0 else 1.0)
            optimizer.step()
            if step in (1, 8, 30):
                recorded[f"{name}.step{step}"] = weight.detach().clone()
save_file(recorded, sys.argv[1])
print(len(recorded), "tensors")
