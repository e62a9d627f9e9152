#!/usr/bin/env python3
"""Losses of two and of four processes beside those of one, for every kind of rule and adapter. Draws docs/images/process_curves.svg and writes the table of docs/explanation/reliability.md.

Needs a program (any build) and matplotlib (bench/figures.requirements.txt): three minutes on two cores.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from written_section import write_section

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests/program"))
from tiny_model import write_model, write_pages  # noqa: E402

STEPS, PROCESSES, SHOWN = 50, (1, 2, 4), (1, 10, 25, 50)
LORA, FULL = ["--adapter", "lora", "--rank", 4], ["--adapter", "full"]
GALORE = FULL + ["--optimizer", "galore-adamw", "--galore-rank", 8, "--update-proj-gap", 1000]  # one subspace: numerics.md has what a second one does
SETTINGS = {
    "LoRA 4, AdamW": LORA,
    "LoRA 4 with dropout, AdamW": [*LORA, "--lora-dropout", 0.2],
    "DoRA 4, AdamW": [*LORA, "--use-dora"],
    "all parameters, AdamW": FULL,
    "all parameters, AdamW, clipped at 0.5": [*FULL, "--max-grad-norm", 0.5],
    "all parameters, Lion": [*FULL, "--optimizer", "lion"],
    "all parameters, Adafactor": [*FULL, "--optimizer", "adafactor"],
    "APOLLO 8": [*FULL, "--optimizer", "apollo", "--apollo-rank", 8, "--update-proj-gap", 1000],
    "GaLore 8, layer-wise": [*GALORE, "--layer-wise"],
    "all parameters, AdamW, states in 8 bits": [*FULL, "--state-dtype", "8bit"],
    "all parameters, AdamW, states in bf16": [*FULL, "--state-dtype", "bf16"],
}
DRAWN = ("LoRA 4, AdamW", "all parameters, AdamW", "GaLore 8, layer-wise", "all parameters, AdamW, states in 8 bits")
BEGIN, END = "<!-- written by bench/process_curves.py: begin -->", "<!-- end of process_curves -->"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--dapt", default=ROOT / "build/release/bin/dapt", help="the program")


def losses(program, folder, processes, options):
    out = folder / "out"
    launch = ["launch", "-n", processes, "--"] if processes > 1 else []
    command = [program, *launch, "train", "--model", folder / "model", "--pages", folder / "pages.jsonl", "--duplicates", "off", "--dtype", "fp32", "--max-length", 64, "--batch-size", 8,
               "--micro-batch-size", 1, "--max-steps", STEPS, "--lr", "1e-3", "--threads", 1, "--out", out, *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    found = [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]
    subprocess.run(["rm", "-r", str(out)], check=True)
    return found


def table(results):
    lines = ["| setting | " + " | ".join(f"step {step}" for step in SHOWN) + " | two processes differ by | four differ by |", "|---" * (len(SHOWN) + 3) + "|"]
    for name, curves in results.items():
        differences = [max(abs(a - b) for a, b in zip(curves[n], curves[1], strict=True)) for n in PROCESSES[1:]]
        lines.append(f"| {name} | " + " | ".join(f"{curves[1][step - 1]:.6f}" for step in SHOWN) + " | " + " | ".join(f"{value:.1e}" for value in differences) + " |")
    return "\n".join(lines)


def draw(results, file):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dapt"  # the same figure has the same bytes
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, len(DRAWN), figsize=(3 * len(DRAWN), 3), layout="constrained", sharey=True)
    for axis, name in zip(axes, DRAWN, strict=True):
        for processes, style in zip(PROCESSES, ({"linewidth": 4, "color": "0.8"}, {"linewidth": 1.5, "color": "C0"}, {"linewidth": 0, "marker": ".", "markersize": 3, "color": "C3"}), strict=True):
            axis.plot(range(1, STEPS + 1), results[name][processes], label=f"{processes} process{'es' if processes > 1 else ''}", **style)
        axis.set(title=name, xlabel="step")
        axis.title.set_fontsize(8)
    axes[0].set_ylabel("loss")
    axes[0].legend(fontsize=7)
    figure.savefig(file, metadata={"Date": None})


def main():
    a = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "model").mkdir()
        write_model(folder / "model", ROOT)
        write_pages(folder / "pages.jsonl")
        for setting, options in SETTINGS.items():
            results[setting] = {processes: losses(a.dapt, folder, processes, options) for processes in PROCESSES}
            print(setting, file=sys.stderr, flush=True)
    draw(results, ROOT / "docs/images/process_curves.svg")
    write_section("explanation/reliability.md", BEGIN, END, table(results))


if __name__ == "__main__":
    main()
