"""A training process is killed at random moments, also while it saves, and goes on each time: no complete checkpoint is lost, no wrong one is taken, and the weights at the
end are those of a run that was never killed.

usage: kill_test.py SOURCE_DIR BUILD_DIR [KILLS]        KILLS: 6 by default
"""
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from tiny_model import write_model, write_pages

source, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
wanted = int(sys.argv[3]) if len(sys.argv) > 3 else 6
program = build / "bin" / "dapt"
STEPS = 40


def complete(out):
    return sorted(folder.name for folder in (out / "checkpoints").glob("step-*") if (folder / "checkpoint.json").exists())


with tempfile.TemporaryDirectory() as name:
    work = pathlib.Path(name)
    (work / "model").mkdir()
    write_model(work / "model", source)
    write_pages(work / "pages.jsonl")

    def train(out, *options):
        command = [program, "train", "--model", work / "model", "--pages", work / "pages.jsonl", "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--adapter", "full",
                   "--optimizer", "galore-adamw", "--galore-rank", 8, "--update-proj-gap", 7, "--lr", "1e-3", "--max-steps", STEPS, "--checkpoint-steps", 1, "--out", work / out, *options]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=open(work / "messages", "w"))

    def weights(out):
        return (work / out / "model" / "model.safetensors").read_bytes()

    started = time.monotonic()
    assert train("whole").wait() == 0, (work / "messages").read_text()
    whole = time.monotonic() - started
    draw, kills, while_saving, runs = random.Random(2), 0, 0, 0
    while kills < wanted:
        runs += 1
        out, before = f"run{runs}", []
        while True:
            process = train(out, "--resume")
            try:
                code = process.wait(timeout=draw.uniform(0.2, 1.2) * whole)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                while_saving += any((work / out / "checkpoints").glob(".step-*.tmp"))
                now = complete(work / out)
                assert not before or (now and now[-1] >= before[-1]), f"a complete checkpoint was lost: {before} became {now}"
                before = now
                continue
            assert code == 0, (work / "messages").read_text()
            break
        assert weights(out) == weights("whole"), f"{out} does not end with the weights of the run that was not killed"
    print(f"{kills} kills in {runs} runs of {STEPS} steps, {while_saving} of them while a checkpoint was being written; weights equal each time")
