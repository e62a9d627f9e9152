#!/usr/bin/env python3
"""Runs dapt and its peers in turn (peer, tuned peer, dapt; again) and prints the medians of the paired ratios, loss beside speed.

Call bench/compare_with_peers.sh, which sets up what this needs. Reads DAPT_SMOLLM2 and DAPT_DEBIAN. Without options it takes half an hour on two cores and writes the table of
docs/explanation/performance.md; nothing else may run.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

from model_flops import flop_per_token
from written_section import write_section

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
DOMAIN = ROOT / "examples/debian"
LORA_8 = ["--adapter", "lora", "--rank", "8", "--alpha", "16"]
FULL = ["--adapter", "full", "--optimizer"]
GALORE = FULL + ["galore-adamw", "--subspace-source", "first-micro-batch", "--galore-rank"]  # upstream keeps full gradients of all micro-batches
AS_NARROW = ["--weight-write", "stochastic", "--state-dtype", "bf16"]  # with bf16 weights: nothing is stored wider than the peers store it
SETTINGS = {  # name: the peer's method, dapt's options
    "LoRA 8": ("lora:8", LORA_8),
    "LoRA 8 over nf4": ("lora:8:nf4", LORA_8 + ["--quantize", "nf4"]),
    "LoRA 8 over int8": ("lora:8:int8", LORA_8 + ["--quantize", "int8"]),
    "LoRA 256": ("lora:256", ["--adapter", "lora", "--rank", "256", "--alpha", "512"]),
    "GaLore 128": ("galore:128", GALORE + ["128"]),
    "GaLore 512": ("galore:512", GALORE + ["512"]),
    "full AdamW": ("full", FULL + ["adamw"]),
    "LoRA 8, documents isolated": ("lora:8", LORA_8 + ["--isolate-documents"]),  # the peer's documents see each other
}
EVALUATION = "evaluation"
TABLE = ["LoRA 8", "LoRA 256", "GaLore 128", "full AdamW", "LoRA 8, documents isolated", EVALUATION]  # the settings of the documentation's table
BEGIN, END = "<!-- written by bench/compare_with_peers.sh: begin -->", "<!-- end -->"

parser = argparse.ArgumentParser(prog="compare_with_peers.sh", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--dapt", required=True, help=argparse.SUPPRESS)
parser.add_argument("--settings", nargs="+", default=TABLE, choices=[*SETTINGS, EVALUATION], metavar="NAME", help="which of: %(choices)s")
parser.add_argument("--pairs", type=int, default=5, help="runs of each side")
parser.add_argument("--steps", type=int, default=2, help="optimizer steps of a run; speed is the median of those after the first")
parser.add_argument("--accumulate", type=int, default=4, help="micro-batches a step")
parser.add_argument("--micro", type=int, default=1, help="sequences a micro-batch")
parser.add_argument("--length", type=int, default=1024, help="tokens of a sequence")
parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp32"), help="of weights and compute in training; evaluation is in fp32")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--untuned-only", action="store_true", help="leave out the tuned peer")
parser.add_argument("--no-docs", action="store_true", help="print only, leave docs/explanation/performance.md as it is")
a = parser.parse_args()
MODEL, PAGES = os.environ["DAPT_SMOLLM2"], os.path.join(os.environ["DAPT_DEBIAN"], "pages.jsonl")
os.environ["OMP_NUM_THREADS"] = str(a.threads)


def run(command):
    """Standard output, wall seconds and peak MiB of one process that must succeed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        if status != 0:
            sys.exit(f"{' '.join(map(str, command))}\n{err.read().decode()}")
        return out.read().decode(), seconds, usage.ru_maxrss / 1024


def gemm_peak():
    """The most FLOP a second that torch's product of matrices reaches, in the type of the runs; as wide as the model's and as large as suits the machine."""
    code = ("import sys, time, torch; torch.set_num_threads(int(sys.argv[2])); best = 0\n"
            "for m, k, n in ((1024, 576, 1536), (1024, 1536, 576), (2048, 2048, 2048)):\n"
            "    a, b = (torch.randn(*shape).to(getattr(torch, sys.argv[1])) for shape in ((m, k), (k, n)))\n"
            "    for _ in range(20):\n"
            "        start = time.perf_counter(); torch.mm(a, b); best = max(best, 2 * m * k * n / (time.perf_counter() - start))\n"
            "print(best)")
    return float(run([sys.executable, "-c", code, {"bf16": "bfloat16", "fp32": "float32"}[a.dtype], a.threads])[0])


def mean_context(rows):
    """How many tokens a token of the run sees on average, itself included."""
    with open(rows, encoding="utf-8") as file:
        starts = [json.loads(line)["document_starts"] for line, _ in zip(file, range(a.steps * a.accumulate * a.micro))]
    return statistics.mean(position - start + 1 for row in starts for position, start in enumerate(row))


def speed(seconds):
    return a.length * a.micro * a.accumulate / statistics.median(seconds[1:] or seconds)


def train_peer(method, rows, tuned):
    out, _, memory = run([sys.executable, BENCH / "peers/train_hf.py", MODEL, rows, method, "--dtype", a.dtype, "--micro", a.micro, "--accumulate", a.accumulate,
                          "--steps", a.steps, "--threads", a.threads, *(["--tuned"] if tuned else [])])
    record = json.loads(out)
    return {"speed": speed(record["seconds"]), "first_optimizer": record["optimizer_seconds"][0], "memory": memory, "loss": record["losses"][-1]}


def train_dapt(options, folder):
    if a.dtype == "bf16" and options[:2] == FULL[:2]:
        options = options + AS_NARROW + (["--gradient-sums", "bf16"] if a.accumulate > 1 else [])
    _, _, memory = run([a.dapt, "train", "--model", MODEL, "--pages", PAGES, *options, "--dtype", a.dtype, "--max-length", a.length, "--micro-batch-size", a.micro,
                        "--batch-size", a.micro * a.accumulate, "--max-steps", a.steps, "--lr", "1e-4", "--threads", a.threads, "--out", folder])
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {"speed": speed([sum(step["phase_seconds"].values()) for step in log]), "first_optimizer": log[0]["phase_seconds"]["optimizer"], "memory": memory,
            "loss": log[-1]["loss"]}


def evaluate_peer(out):
    _, seconds, memory = run([sys.executable, DOMAIN / "eval_hf.py", MODEL, "--data", DOMAIN, "--threads", a.threads, "--out", out])
    found = json.loads(out.read_text())["dev"]
    return {"seconds": seconds, "memory": memory, "qa_exact": found["qa_em_strict"], "logp_mrr": found["mrr"]}


def evaluate_dapt(out):
    _, seconds, memory = run([a.dapt, "eval", "--model", MODEL, "--dtype", "fp32", "--qa", DOMAIN / "qa.jsonl", "--fewshot", DOMAIN / "fewshot.jsonl", "--cloze",
                              DOMAIN / "cloze.jsonl", "--threads", a.threads, "--out", out])
    found = json.loads(out.read_text())
    found = found[0] if isinstance(found, list) else found
    return {"seconds": seconds, "memory": memory, "qa_exact": found["qa_exact"], "logp_mrr": found["logp_mrr"]}


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def ratios(runs, others, ratio):
    values = sorted(ratio(ours, theirs) for ours, theirs in zip(runs, others, strict=True))
    return f"**{statistics.median(values):.2f}x** ({values[0]:.2f}-{values[-1]:.2f})"


def training_table(found, sides, peak, contexts):
    """A row for each setting that ran; columns in the order peer, tuned peer, dapt."""
    faster = lambda ours, theirs: ours["speed"] / theirs["speed"]
    peers = sides[:-1]
    head = ["setting", *(f"{side}, tok/s" for side in sides), *(f"against {peer}" for peer in peers), *(f"{side}, MFU" for side in sides), *(f"{side}, MiB" for side in sides),
            *(f"memory against {peer}" for peer in peers), *(f"{side}, first optimizer step, s" for side in sides), f"loss of step {a.steps}: " + ", ".join(sides)]
    rows = [head, ["---"] * len(head)]
    config = json.loads((pathlib.Path(MODEL) / "config.json").read_text())
    for setting, runs in found.items():
        ours = runs["dapt"]
        isolates = "--isolate-documents" in SETTINGS[setting][1]
        mfu = lambda side: median(runs[side], "speed") * flop_per_token(config, SETTINGS[setting][0], contexts[isolates and side == "dapt"]) / peak
        rows.append([setting, *(f"{median(runs[side], 'speed'):.0f}" for side in sides), *(ratios(ours, runs[peer], faster) for peer in peers),
                     *(f"{mfu(side):.0%}" for side in sides),
                     *(f"{median(runs[side], 'memory'):.0f}" for side in sides),
                     *(f"{median(ours, 'memory') / median(runs[peer], 'memory'):.2f}x" for peer in peers),
                     *(f"{median(runs[side], 'first_optimizer'):.2f}" for side in sides), ", ".join(f"{median(runs[side], 'loss'):.4f}" for side in sides)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def evaluation_text(runs):
    peer, ours = runs["peer"], runs["dapt"]
    scores = lambda side: f"QA_exact {median(side, 'qa_exact'):.3f}, logp_mrr {median(side, 'logp_mrr'):.4f}"
    return (f"Evaluation of the base (50 few-shot questions and all cloze sentences, fp32, whole processes): peer {median(peer, 'seconds'):.1f} s ({scores(peer)}, "
            f"{median(peer, 'memory'):.0f} MiB), dapt {median(ours, 'seconds'):.1f} s ({scores(ours)}, {median(ours, 'memory'):.0f} MiB): "
            + ratios(ours, peer, lambda o, t: t["seconds"] / o["seconds"]) + ".")


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(": ", 1)[1]
    return platform.machine()


def main():
    sides = ["peer", "dapt"] if a.untuned_only else ["peer", "tuned peer", "dapt"]
    found = {setting: {side: [] for side in sides} for setting in a.settings}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        rows, peak, contexts = folder / "rows.jsonl", 0, {}
        if any(setting in SETTINGS for setting in a.settings):
            for isolates in (True, False):
                run([a.dapt, "tokenize", "--model", MODEL, "--pages", PAGES, "--packed", "--max-length", a.length, "--out", rows, *(["--isolate-documents"] if isolates else [])])
                contexts[isolates] = mean_context(rows)
        for pair in range(a.pairs):
            peak = max(peak, gemm_peak()) if contexts else 0  # in each pair: a shared machine's speed moves
            peers = {}  # of this pair: settings that ask the same of a peer share its run
            for setting, runs in found.items():
                for side in sides:
                    if setting != EVALUATION:
                        method, options = SETTINGS[setting]
                        if side == "dapt":
                            record = train_dapt(options, folder / f"{setting}-{pair}")
                        else:
                            record = peers.get((method, side)) or train_peer(method, rows, side == "tuned peer")
                            peers[method, side] = record
                    elif side == "tuned peer":
                        continue
                    else:
                        record = (evaluate_dapt if side == "dapt" else evaluate_peer)(folder / "results.json")
                    runs[side].append(record)
                    print(f"pair {pair + 1} of {a.pairs}, {setting}, {side}: " + ", ".join(f"{key} {value:.4g}" for key, value in record.items()), file=sys.stderr, flush=True)

    evaluation = found.pop(EVALUATION, None)
    text = [f"{time.strftime('%Y-%m-%d')}, {processor()}, {a.threads} threads. SmolLM2-135M on the Debian pages, {a.dtype}, sequences of {a.length}, {a.accumulate} micro-batches of "
            f"{a.micro} a step; medians of {a.pairs} runs taken in turn, speed of the steps after the first, in brackets the smallest and largest ratio of a pair. "
            "Memory is the peak of the resident set. "
            + (f"MFU: model FLOP (products alone, half of the square for causal attention, nothing recomputed, no gradient of a frozen weight) against {peak / 1e9:.0f} GFLOP/s, "
               f"the best product of torch in that type in this run. In isolated documents a token sees {contexts[True]:.0f} tokens on average, else {contexts[False]:.0f}. " if peak else "")
            + ("Under all parameters in bf16, dapt has bf16 moments, adds gradients up in bf16 and writes weights by stochastic rounding, so that it stores nothing wider than the peers. " if a.dtype == "bf16" else "")
            + ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "peft", "galore-torch")) + "."]
    if found:
        text.append(training_table(found, sides, peak, contexts))
    if evaluation:
        text.append(evaluation_text(evaluation))
    text = "\n\n".join(text)
    print(text)
    if not a.no_docs:
        write_section("explanation/performance.md", BEGIN, END, text)


if __name__ == "__main__":
    main()
