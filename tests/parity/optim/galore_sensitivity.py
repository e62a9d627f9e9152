"""How far 20 steps of galore_torch on SmolLM2 move when only the rounding changes: the bound below which a parity test of it says something.

    galore_sensitivity.py MODEL_DIR ../train/smollm2.json LR [RANK ...]

Prints, for each rank, the largest difference of a loss to the run of record.py when (ulp) every element of the first gradients of the projected matrices is
moved by one unit in the last place, and when (sdpa) torch's fused attention takes the place of the eager one; and how close the singular values at the cut are
at each refresh. Needs what train/record.py needs.
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "train"))
import record
import torch
from galore_torch import GaLoreAdamW, galore_projector

LAYERS = [0, 15, 29]
gaps = []


def run(folder, rows, lr, rank, variant):
    from transformers import AutoModelForCausalLM

    attention = "sdpa" if variant == "sdpa" else "eager"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    projected, others = record.galore_groups(model, LAYERS)
    groups = [{"params": others}, {"params": projected, "rank": rank, "update_proj_gap": 7, "scale": 0.25, "proj_type": "std"}]
    optimizer = GaLoreAdamW(groups, lr=lr, no_deprecation_warning=True)
    if variant == "ulp":
        def perturb(*_, first=[True]):
            if first.pop() if first else False:
                for parameter in projected:
                    parameter.grad = torch.nextafter(parameter.grad, torch.full_like(parameter.grad, torch.inf))
        optimizer.register_step_pre_hook(perturb)
    return record.train(model, optimizer, ([(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))] for ids in rows))


def watched(self, weights, rank, type, original=galore_projector.GaLoreProjector.get_orthogonal_matrix):
    s = torch.linalg.svdvals(weights)
    gaps.append(float((s[rank - 1] - s[rank]) / s[rank - 1]) if rank < len(s) else 1.0)
    return original(self, weights, rank, type)


def main(folder, recorded, lr, ranks):
    rows = json.load(open(recorded))["rows"]
    galore_projector.GaLoreProjector.get_orthogonal_matrix = watched
    for rank in ranks:
        gaps.clear()
        base = run(folder, rows, lr, rank, "base")
        print(f"rank {rank} lr {lr}: relative gap of the singular values at the cut: smallest {min(gaps):.1e}, median {sorted(gaps)[len(gaps) // 2]:.1e}", flush=True)
        for variant in ("ulp", "sdpa"):
            found = run(folder, rows, lr, rank, variant)
            differences = [abs(a - b) for a, b in zip(found, base)]
            print(f"rank {rank} lr {lr} {variant}: largest difference of a loss {max(differences):.2e}; by step", " ".join(f"{d:.0e}" for d in differences), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), [int(rank) for rank in sys.argv[4:]] or [16, 64, 128])
