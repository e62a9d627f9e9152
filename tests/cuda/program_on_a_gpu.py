#!/usr/bin/env python3
"""The program on a GPU: runs go on from a checkpoint to the same bits, and train and eval find what they find on the CPU.

usage: program_on_a_gpu.py DAPT      prints a line for each check; exit status 1 where one failed
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

source = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(source / "tests/program"))
from tiny_model import write_model  # noqa: E402

program = pathlib.Path(sys.argv[1]).resolve()
folder = pathlib.Path(tempfile.mkdtemp())
failed = False


def dapt(*arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"dapt {arguments[0]} ended with {done.returncode}: {done.stderr[-1500:]}")
    return done.stdout + done.stderr


def check(name, holds, more=""):
    global failed
    failed |= not holds
    print(f"{'ok    ' if holds else 'FAILED'} {name} {more}", flush=True)


def trained(out):
    """What training left: the bytes of adapter or model."""
    return b"".join(file.read_bytes() for file in sorted(out.glob("**/*.safetensors")) if "checkpoints" not in str(file))


def log(out, key):
    return [json.loads(line)[key] for line in (out / "log.jsonl").read_text().splitlines() if key in json.loads(line)]


model, pages = folder / "model", folder / "pages.jsonl"
model.mkdir()
write_model(model, source, hidden=256, inner=688, layers=4)  # heads of 64, which flash attention takes
pages.write_text("".join(json.dumps({"work": "w", "page": i, "text": " ".join(f"Page {i} tells how dpkg unpacks package {i * i + k}." for k in range(60))}) + "\n" for i in range(120)))
common = ("--model", model, "--pages", pages, "--duplicates", "off", "--max-length", 768, "--batch-size", 4)
settings = {
    "LoRA, dropout, isolated documents": ("--rank", 8, "--lora-dropout", 0.1, "--micro-batch-size", 2, "--isolate-documents"),
    "LoRA over nf4, recomputed": ("--rank", 8, "--quantize", "nf4", "--gradient-checkpointing"),
    "full AdamW, masters": ("--adapter", "full", "--micro-batch-size", 4),
    "full AdamW, 8-bit states, stochastic": ("--adapter", "full", "--state-dtype", "8bit", "--weight-write", "stochastic"),
    "GaLore, layer-wise, in a gap": ("--adapter", "full", "--optimizer", "galore-adamw", "--galore-rank", 32, "--update-proj-gap", 5, "--layer-wise", "--weight-write", "stochastic"),
    "frozen weights and states on the host": ("--rank", 8, "--host-weights", "--host-states"),
}
for number, (name, options) in enumerate(settings.items()):
    try:
        whole, resumed = folder / f"whole{number}", folder / f"resumed{number}"
        train = ("train", "--device", "cuda", *common, *options, "--max-steps", 12, "--checkpoint-steps", 7, "--keep-checkpoints", 9)
        dapt(*train, "--out", whole)
        # only the checkpoint after step 7 is left, as where the machine went down
        shutil.copytree(whole, resumed)
        for found in list((resumed / "checkpoints").iterdir()):
            if found.name != "step-000000007":
                shutil.rmtree(found) if found.is_dir() else found.unlink()
        check(f"a checkpoint after step 7: {name}", [found.name for found in (resumed / "checkpoints").iterdir()] == ["step-000000007"])
        for found in list(resumed.iterdir()):
            if found.name not in ("checkpoints", "log.jsonl"):
                shutil.rmtree(found) if found.is_dir() else found.unlink()
        dapt(*train, "--out", resumed, "--resume")
        check(f"resumed to the same bits: {name}", trained(whole) == trained(resumed) and len(trained(whole)) > 10000 and log(whole, "loss") == log(resumed, "loss"),
              f"losses {log(whole, 'loss')[0]:.4f} to {log(whole, 'loss')[-1]:.4f}")
        cpu = folder / f"cpu{number}"
        if "dropout" not in name and "host" not in name:
            dapt("train", *common, *options, "--max-steps", 3, "--out", cpu)
            difference = max(abs(a / b - 1) for a, b in zip(log(whole, "loss"), log(cpu, "loss")))
            check(f"the CPU's losses of three steps: {name}", difference < 5e-3, f"largest difference {difference:.1e}")
    except (RuntimeError, OSError, IndexError, KeyError) as error:
        check(name, False, str(error))

(folder / "qa.jsonl").write_text("".join(json.dumps({"id": str(i), "question": f"Which package has number {i}?", "answers": [f"p{i}"]}) + "\n" for i in range(20)))
(folder / "cloze.jsonl").write_text("".join(json.dumps({"id": str(i), "sentence": "The tool {word} unpacks page " + str(i) + ".", "answer": "dpkg", "candidates": ["dpkg", "apt", "package", "page"]}) + "\n"
                                            for i in range(20)))
(folder / "fewshot.jsonl").write_text("".join(json.dumps({"id": f"s{i}", "question": f"Which page is {i}?", "answers": [f"Page {i}"]}) + "\n" for i in range(3)))
try:
    results = {}
    for device in ("cuda", "cpu"):
        out = folder / f"results.{device}.json"
        dapt("eval", "--device", device, "--dtype", "fp32", "--model", model, "--qa", folder / "qa.jsonl", "--cloze", folder / "cloze.jsonl", "--fewshot", folder / "fewshot.jsonl", "--pages", pages, "--out", out)
        results[device] = json.loads(out.read_text())
    differences = []

    def compare(a, b):
        if isinstance(a, dict):
            return all(compare(a[key], b[key]) for key in a if not key.endswith("seconds") and key not in ("device", "peak_memory_bytes", "header", "environment"))
        if isinstance(a, list):
            return len(a) == len(b) and all(compare(x, y) for x, y in zip(a, b))
        if isinstance(a, float) and isinstance(b, float):
            differences.append(abs(a - b) / max(abs(b), 1e-6))
            return True
        if a != b:
            print("  differs:", a, b)
        return a == b
    check("eval in fp32: the CPU's answers, ranks and scores", compare(results["cuda"], results["cpu"]) and max(differences) < 1e-3, f"{len(differences)} numbers, largest difference {max(differences):.1e}")
except (RuntimeError, OSError, ValueError, KeyError) as error:
    check("eval", False, str(error))

# two processes that are given the one GPU: NCCL refuses, and says so before the timeout
done = subprocess.run([program, "launch", "-n", "2", "--", "train", "--device", "cuda", *map(str, common), "--rank", "8", "--max-steps", "2", "--rank-timeout", "20", "--out", folder / "two"], capture_output=True, text=True,
                      timeout=120)
check("two processes and one GPU are refused", done.returncode != 0, "\n  " + "\n  ".join(line[:300] for line in done.stderr.splitlines() if "error" in line.lower())[:900])
print(dapt("train", "--device", "cuda", *common, "--rank", 8, "--max-steps", 2, "--out", folder / "header").split("step")[0][:3000])
shutil.rmtree(folder)
sys.exit(failed)
