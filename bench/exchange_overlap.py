#!/usr/bin/env python3
"""How much of the exchange of gradients lies behind the backward pass: steps of two processes of one thread each over a link of a given rate, and the seconds that what they sent takes on it.
Writes the table of docs/explanation/reliability.md.

Each process has a network namespace with an address of its own, and the link between them is slowed down by tc: needs root, the programs ip and tc, a program (release build), SmolLM2
(DAPT_SMOLLM2) and the Debian pages (DAPT_DEBIAN). Eight minutes on two cores.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from written_section import write_section

ROOT = pathlib.Path(__file__).resolve().parent.parent
SETTINGS = {
    "LoRA 256": ["--adapter", "lora", "--rank", 256],
    "GaLore 128": ["--adapter", "full", "--optimizer", "galore-adamw", "--galore-rank", 128],
    "all parameters, AdamW": ["--adapter", "full"],
}
RATES = (None, 4000, 1000)  # Mbit/s
BEGIN, END = "<!-- written by bench/exchange_overlap.py: begin -->", "<!-- end of exchange_overlap -->"
SPACES = [f"daptoverlap{rank}" for rank in (0, 1)]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--dapt", default=ROOT / "build/release/bin/dapt", help="the program")
parser.add_argument("--steps", type=int, default=4, help="of each run; the first is left out")


def ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True)


def connect(rate):
    """A link between the two namespaces; `rate` in Mbit/s, None: as fast as the machine copies."""
    for rank, space in enumerate(SPACES):
        ip("netns", "add", space)
    ip("link", "add", SPACES[0], "type", "veth", "peer", "name", SPACES[1])
    for rank, space in enumerate(SPACES):
        ip("link", "set", space, "netns", space)
        ip("-n", space, "addr", "add", f"10.78.0.{rank + 1}/24", "dev", space)
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "link", "set", space, "up")
        if rate:
            ip("netns", "exec", space, "tc", "qdisc", "add", "dev", space, "root", "tbf", "rate", f"{rate}mbit", "burst", "1mb", "latency", "50ms")


def disconnect():
    for space in SPACES:
        subprocess.run(["ip", "netns", "del", space], stderr=subprocess.DEVNULL)


def sent_bytes(space):
    words = subprocess.run(["ip", "-n", space, "-s", "-j", "link", "show", "dev", space], check=True, capture_output=True, text=True).stdout
    return json.loads(words)[0]["stats64"]["tx"]["bytes"]


def run(a, options, rate, folder):
    """Seconds of a step and of waiting in it, medians; bytes that a process sends in one."""
    out = pathlib.Path(folder) / "out"
    command = [a.dapt, "train", "--model", os.environ["DAPT_SMOLLM2"], "--pages", pathlib.Path(os.environ["DAPT_DEBIAN"]) / "pages.jsonl", "--duplicates", "off",
               "--dtype", "bf16", "--max-length", 1024, "--batch-size", 4, "--micro-batch-size", 1, "--lr", "1e-4", "--threads", 1, "--out", out, "--checkpoint-steps", 1000, "--max-steps"]

    def start(steps):
        connect(rate)
        try:
            processes = [subprocess.Popen(["ip", "netns", "exec", space, *map(str, [*command, steps, *options])], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                          env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "10.78.0.1", "MASTER_PORT": "29500"}) for rank, space in enumerate(SPACES)]
            messages = [process.communicate()[1] for process in processes]
            if any(process.returncode for process in processes):
                sys.exit("\n".join(messages))
            return sent_bytes(SPACES[1])
        finally:
            disconnect()

    few = start(2)  # what is sent beside steps is in both
    subprocess.run(["rm", "-r", str(out)], check=True)
    sent = (start(a.steps) - few) / (a.steps - 2)
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()][1:]
    subprocess.run(["rm", "-r", str(out)], check=True)
    return statistics.median(sum(step["phase_seconds"].values()) for step in steps), statistics.median(step["phase_seconds"]["communication"] for step in steps), sent


def main():
    a = parser.parse_args()
    lines = ["| setting | link, Gbit/s | MB that a process sends a step | seconds on the link | step, s | of it waiting, s | behind the backward pass |", "|---" * 7 + "|"]
    with tempfile.TemporaryDirectory() as folder:
        for name, options in SETTINGS.items():
            for rate in RATES:
                step, waiting, sent = run(a, options, rate, folder)
                if rate is None:
                    lines.append(f"| {name} | not limited | {sent / 1e6:,.0f} | | {step:.2f} | {waiting:.2f} | |")
                else:
                    wire = sent * 8 / (rate * 1e6)
                    lines.append(f"| {name} | {rate / 1000:g} | {sent / 1e6:,.0f} | {wire:.2f} | {step:.2f} | {waiting:.2f} | {max(0.0, 1 - waiting / wire):.0%} |")
                print(lines[-1], flush=True)
    write_section("explanation/reliability.md", BEGIN, END, "\n".join(lines))


if __name__ == "__main__":
    main()
