#!/usr/bin/env python3
"""How seconds a token grow beside model FLOP a token: with length, LoRA rank, width and depth, on Llamas with random weights. Draws docs/images/cost_growth.svg and writes the table of
docs/explanation/performance.md.

A run that was stopped goes on where it was. Needs the release program and matplotlib (bench/figures.requirements.txt), and reads DAPT_DEBIAN. Let nothing else run: about four minutes on two cores.
"""
import argparse
import array
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

from model_flops import flop_per_token
from written_section import write_section

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
BASE = {"length": 1024, "rank": 8, "width": 512, "layers": 4}
SWEEPS = {"length": [256, 512, 1024, 2048, 4096, 8192], "rank": [8, 32, 128, 512], "width": [256, 512, 1024, 2048], "layers": [2, 4, 8, 16]}
TOKENS = {"length": 8192, "rank": 8192, "width": 4096, "layers": 4096}  # of a step: many, so that its fixed cost (the optimizer's) is small beside them
BEGIN, END = "<!-- written by bench/cost_growth.py: begin -->", "<!-- end of cost_growth -->"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--dapt", default=ROOT / "build/release/bin/dapt", help="the program")
parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a run; seconds are the median of those after the first")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--results", type=pathlib.Path, default=ROOT / "build/cost_growth.json", help="where measurements are kept; what is there is not measured again")


def config_of(setting):
    width = setting["width"]
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8192, "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": setting["layers"],
            "num_attention_heads": width // 64, "num_key_value_heads": width // 128, "max_position_embeddings": 8192, "tie_word_embeddings": True, "torch_dtype": "bfloat16"}


def write_model(folder, config):
    """bf16 weights of standard deviation 0.02, norms of 1, and GPT-NeoX's small tokenizer. Values come again after 65,521 numbers: they matter to no speed."""
    width, inner, keys = config["hidden_size"], config["intermediate_size"], config["num_key_value_heads"] * 64
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], width], "model.norm.weight": [width]}
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{name}_proj.weight": [rows, width] for name, rows in (("q", width), ("k", keys), ("v", keys), ("o", width))}
        shapes |= {f"{at}mlp.gate_proj.weight": [inner, width], f"{at}mlp.up_proj.weight": [inner, width], f"{at}mlp.down_proj.weight": [width, inner]}
        shapes |= {f"{at}{name}_layernorm.weight": [width] for name in ("input", "post_attention")}
    draw = random.Random(1)
    bf16 = lambda values: array.array("f", values).tobytes()
    upper = lambda data: b"".join(data[i + 2:i + 4] for i in range(0, len(data), 4))  # of each fp32
    block, one = upper(bf16(draw.gauss(0, 0.02) for _ in range(65521))), upper(bf16([1.0]))
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, entry in header.items():
            left = entry["data_offsets"][1] - entry["data_offsets"][0]
            if "norm" in name:
                file.write(one * (left // 2))
                continue
            while left > 0:
                left -= file.write(block[:left])
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((ROOT / "tests/parity/text/gpt_neox.tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')


def measure(a, sweep, setting, folder):
    """Seconds a token."""
    model, out, tokens = folder / "model", folder / "out", TOKENS[sweep]
    model.mkdir()
    write_model(model, config_of(setting))
    command = [a.dapt, "train", "--model", model, "--pages", pathlib.Path(os.environ["DAPT_DEBIAN"]) / "pages.jsonl", "--duplicates", "off", "--adapter", "lora", "--rank", setting["rank"], "--dtype", "bf16",
               "--max-length", setting["length"], "--batch-size", tokens // setting["length"], "--max-steps", a.steps, "--threads", a.threads, "--out", out]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    steps = [sum(json.loads(line)["phase_seconds"].values()) for line in (out / "log.jsonl").read_text().splitlines()]
    return statistics.median(steps[1:] or steps) / tokens


def rows_of(results):
    """Of each sweep: value, FLOP and seconds of a token, growth of FLOP and of seconds from the first value."""
    for sweep, values in SWEEPS.items():
        points = []
        for value in values:
            setting = BASE | {sweep: value}
            points.append((flop_per_token(config_of(setting), f"lora:{setting['rank']}", (setting["length"] + 1) / 2), results[sweep][str(value)]))
        for value, (flop, seconds) in zip(values, points, strict=True):
            yield sweep, value, flop, seconds, flop / points[0][0], seconds / points[0][1]


def table(results):
    lines = ["| | | MFLOP a token | ms a token | GFLOP/s | FLOP, from the first | seconds, from the first |", "|---|---|---|---|---|---|---|"]
    for sweep, value, flop, seconds, more_work, more_seconds in rows_of(results):
        lines.append(f"| {sweep} | {value:,} | {flop / 1e6:.0f} | {seconds * 1e3:.3f} | {flop / seconds / 1e9:.0f} | {more_work:.2f}x | {more_seconds:.2f}x |")
    return "\n".join(lines)


def draw(results, file):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dapt"  # the same figure has the same bytes
    from matplotlib import pyplot, ticker
    figure, axes = pyplot.subplots(1, len(results), figsize=(3 * len(results), 3), layout="constrained", squeeze=False)
    for axis, sweep in zip(axes[0], results):
        points = [(more_work, more_seconds, value) for name, value, _, _, more_work, more_seconds in rows_of(results) if name == sweep]
        most = max(max(x, y) for x, y, _ in points) * 1.15
        axis.plot([1, most], [1, most], color="0.7", linewidth=1)
        axis.plot([x for x, _, _ in points], [y for _, y, _ in points], marker="o", markersize=4)
        for x, y, value in points:
            axis.annotate(f"{value:,}", (x, y), textcoords="offset points", xytext=(4, -9), fontsize=7)
        axis.set(title=sweep, xlabel="FLOP a token, from the first", xscale="log", yscale="log")
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_locator(ticker.LogLocator(base=2))
            scale.set_major_formatter("{x:g}x")
            scale.set_minor_locator(ticker.NullLocator())
    axes[0][0].set_ylabel("seconds a token, from the first")
    figure.savefig(file, metadata={"Date": None})


def main():
    a = parser.parse_args()
    results = {sweep: {} for sweep in SWEEPS} | (json.loads(a.results.read_text()) if a.results.exists() else {})
    for sweep, values in SWEEPS.items():
        for value in values:
            if str(value) in results[sweep]:
                continue
            with tempfile.TemporaryDirectory() as name:
                results[sweep][str(value)] = measure(a, sweep, BASE | {sweep: value}, pathlib.Path(name))
            print(f"{sweep} {value}: {results[sweep][str(value)] * 1e3:.3f} ms a token", file=sys.stderr, flush=True)
            a.results.write_text(json.dumps(results))
    print(table(results))
    draw(results, ROOT / "docs/images/cost_growth.svg")
    write_section("explanation/performance.md", BEGIN, END, table(results))


if __name__ == "__main__":
    main()
