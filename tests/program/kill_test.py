"""A training process is killed at random moments, also while it saves, and goes on each time: no complete checkpoint is lost, no wrong one is taken, and the weights, the log and the evaluations at the
end are those of a run that was never killed. In several settings.

usage: kill_test.py SOURCE_DIR BUILD_DIR [KILLS]        KILLS: 8 by default, shared by the settings
"""
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from tiny_model import write_model, write_pages

source, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
wanted = int(sys.argv[3]) if len(sys.argv) > 3 else 8
program = build / "bin" / "dapt"
STEPS = 40
SETTINGS = {
    "GaLore": ("--adapter", "full", "--optimizer", "galore-adamw", "--galore-rank", 8, "--update-proj-gap", 7),
    "GaLore in 8 bits, layer-wise": ("--adapter", "full", "--optimizer", "galore-adamw", "--galore-rank", 8, "--update-proj-gap", 7, "--state-dtype", "8bit", "--layer-wise",
                                     "--eval-steps", 3, "--held-out", 0.2, "--keep-best"),
    "bf16 by stochastic rounding": ("--adapter", "full", "--dtype", "bf16", "--state-dtype", "bf16", "--weight-write", "stochastic", "--gradient-sums", "bf16", "--schedule", "cosine"),
    "DoRA with dropout": ("--rank", 4, "--use-dora", "--lora-dropout", 0.1, "--modules-to-save", "norm", "--optimizer", "lion", "--on-bad-loss", "skip"),
}


def complete(out):
    return sorted(folder.name for folder in (out / "checkpoints").glob("step-*") if (folder / "checkpoint.json").exists())


def what_is_left(out):
    """Of a run that has ended, without what depends on the machine's speed."""
    files = {file: (out / file).read_bytes() for file in ("adapter/adapter_model.safetensors", "model/model.safetensors", "best/model/model.safetensors", "evaluations.jsonl") if (out / file).exists()}
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return files, [{key: value for key, value in step.items() if "second" not in key and key != "peak_memory_bytes"} for step in steps]


with tempfile.TemporaryDirectory() as name:
    work = pathlib.Path(name)
    (work / "model").mkdir()
    write_model(work / "model", source)
    write_pages(work / "pages.jsonl")

    def train(out, setting, *options):
        command = [program, "train", "--model", work / "model", "--pages", work / "pages.jsonl", "--max-length", 64, "--batch-size", 2, *(() if "--dtype" in setting else ("--dtype", "fp32")), "--threads", 1,
                   *setting, "--lr", "1e-3", "--max-steps", STEPS, "--checkpoint-steps", 1, "--out", out, *options]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=open(work / "messages", "w"))

    draw, runs = random.Random(2), 0
    for i, (label, setting) in enumerate(SETTINGS.items()):
        started = time.monotonic()
        assert train(work / f"whole{i}", setting).wait() == 0, (work / "messages").read_text()
        whole = time.monotonic() - started
        expected = what_is_left(work / f"whole{i}")
        assert len(expected[1]) == STEPS
        first_run, kills, while_saving = runs, 0, 0
        while kills < -(-wanted // len(SETTINGS)):
            runs += 1
            out, before = work / f"run{runs}", []
            while True:
                process = train(out, setting, "--resume")
                try:
                    code = process.wait(timeout=draw.uniform(0.2, 1.2) * whole)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    kills += 1
                    while_saving += any((out / "checkpoints").glob(".step-*.tmp"))
                    now = complete(out)
                    assert not before or (now and now[-1] >= before[-1]), f"{label}: a complete checkpoint was lost: {before} became {now}"
                    before = now
                    continue
                assert code == 0, (work / "messages").read_text()
                break
            assert what_is_left(out) == expected, f"{label}: {out} does not end as the run that was not killed"
        print(f"{label}: {kills} kills in {runs - first_run} runs of {STEPS} steps, {while_saving} of them while a checkpoint was being written; all equal each time")
