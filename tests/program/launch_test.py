"""Several processes of the program: dapt launch, training alike, resuming, ranks that are killed or stopped, evaluation split.

usage: launch_test.py SOURCE_DIR BUILD_DIR [TIMES]        TIMES: how often each fault is tried, 1 by default
"""
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from tiny_model import write_model, write_pages

source, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
times = int(sys.argv[3]) if len(sys.argv) > 3 else 1
program = build / "bin" / "dapt"
STEPS = 20

with tempfile.TemporaryDirectory() as name:
    work = pathlib.Path(name)
    (work / "model").mkdir()
    write_model(work / "model", source)
    write_pages(work / "pages.jsonl")

    def training(out, *options, dtype="fp32"):
        return list(map(str, ["train", "--model", work / "model", "--max-length", 64, "--batch-size", 4, "--dtype", dtype, "--threads", 1, "--lr", "1e-3", "--rank-timeout", 5, "--out", work / out, *options]))

    def command(out, *options):
        return training(out, "--pages", work / "pages.jsonl", "--max-steps", STEPS, *options)

    GALORE = ("--adapter", "full", "--optimizer", "galore-adamw", "--galore-rank", 8, "--update-proj-gap", 7, "--checkpoint-steps", 1)
    # A refresh turns the last bits of a sum into another basis where singular values are close, in one process too: docs/explanation/numerics.md. So across numbers of processes without one.
    ONE_SUBSPACE = (*GALORE[:6], "--refresh-schedule", "together")
    CLIPPED = ("--adapter", "full", "--max-grad-norm", 0.5, "--checkpoint-steps", 1)

    def start(processes, *words, before=None, **environment):
        launcher = [program, "launch", "-n", str(processes), "--"] if processes > 1 else [program]
        return subprocess.Popen(list(map(str, [*launcher, *words])), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment, preexec_fn=before)

    def run(processes, *words, code=0, seconds=120, **environment):
        process = start(processes, *words, **environment)
        try:
            out, messages = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == code, f"exit status {process.returncode}, expected {code}:\n{messages}"
        return out + messages

    def log(out):
        return [json.loads(line) for line in (work / out / "log.jsonl").read_text().splitlines()]

    def losses(out):
        return [line["loss"] for line in log(out)]

    def weights(out):
        return (work / out / "model" / "model.safetensors").read_bytes()

    def close(a, b):
        return len(a) == len(b) and all(abs(x - y) < 1e-5 for x, y in zip(a, b))

    def rank_of(process):
        return int(dict(entry.split("=", 1) for entry in pathlib.Path(f"/proc/{process}/environ").read_text().split("\0") if "=" in entry)["RANK"])

    def ranks(launcher):
        children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        return {rank_of(child): int(child) for child in children}

    def wait_for_step(out, step):
        for _ in range(6000):
            if (work / out / "log.jsonl").exists() and len((work / out / "log.jsonl").read_text().splitlines()) >= step:
                return
            time.sleep(0.01)
        raise AssertionError(f"{out} never came to step {step}")

    # Two and four processes have the losses of one.
    for label, options in {"galore": ONE_SUBSPACE, "lora": ("--adapter", "lora", "--rank", 4), "layers": (*ONE_SUBSPACE, "--layer-wise"), "clipped": CLIPPED}.items():
        run(1, *command(f"{label}-1", *options))
        for count in (2, 4) if label == "clipped" else (2,):
            messages = run(count, *command(f"{label}-{count}", *options))
            assert f"ranks: {count} (gloo)" in messages and messages.count("ended by: max_steps") == 1, messages
            assert close(losses(f"{label}-1"), losses(f"{label}-{count}")), (label, count, losses(f"{label}-1"), losses(f"{label}-{count}"))

    # In two processes a run of any kind goes on to the bit, where an epoch ends within a window.
    (work / "few.jsonl").write_text("".join((work / "pages.jsonl").read_text().splitlines(True)[:3]))
    BF16, FULL, LORA = {"dtype": "bf16"}, ("--adapter", "full"), ("--adapter", "lora", "--rank", 4)
    for label, dtype, options in (
        ("dora", {}, (*LORA, "--use-dora", "--lora-dropout", 0.2, "--optimizer", "adafactor")),
        ("pissa", {}, (*LORA, "--init-lora-weights", "pissa", "--loraplus-lr-ratio", 4, "--optimizer", "lion", "--state-dtype", "bf16")),
        ("stochastic", BF16, (*FULL, "--weight-write", "stochastic", "--state-dtype", "bf16", "--gradient-sums", "bf16")),
        ("apollo", BF16, (*FULL, "--optimizer", "apollo", "--apollo-rank", 8, "--update-proj-gap", 3, "--weight-write", "kahan", "--shard-weights")),
        ("layers8", {}, (*FULL, "--optimizer", "galore-adamw", "--galore-rank", 8, "--update-proj-gap", 3, "--state-dtype", "8bit", "--layer-wise", "--shard-states")),
    ):
        whole, half = (training(f"{label}-{part}", "--pages", work / "few.jsonl", "--max-steps", 9, "--checkpoint-steps", 1, "--keep-checkpoints", 9, *options, **dtype) for part in ("whole", "half"))
        run(2, *whole)
        shutil.copytree(work / f"{label}-whole", work / f"{label}-half")
        for step in range(5, 10):
            shutil.rmtree(work / f"{label}-half/checkpoints/step-{step:09}")
        assert "after step 4" in run(2, *half, "--resume"), label
        assert losses(f"{label}-half") == losses(f"{label}-whole") and len(losses(f"{label}-half")) == 9, label
        files = [file.relative_to(work / f"{label}-whole") for file in (work / f"{label}-whole").rglob("*.safetensors")]
        assert len(files) == 10, (label, files)
        for file in files:
            assert (work / f"{label}-half" / file).read_bytes() == (work / f"{label}-whole" / file).read_bytes(), (label, file)

    # States sharded: the same weights; what each process keeps is said, and the checkpoint that one writes goes on with and without shards.
    for label, options in {"galore": ONE_SUBSPACE, "layers": (*ONE_SUBSPACE, "--layer-wise"), "clipped": CLIPPED}.items():
        messages = run(2, *command(f"{label}-sharded", *options, "--shard-states"))
        assert "optimizer states by rank: " in messages and "bytes on rank 1" in messages, messages
        assert weights(f"{label}-sharded") == weights(f"{label}-2") and losses(f"{label}-sharded") == losses(f"{label}-2"), label
    for label, options in {"galore": ONE_SUBSPACE, "layers": (*ONE_SUBSPACE, "--layer-wise"), "clipped": CLIPPED}.items():
        messages = run(2, *command(f"{label}-split", *options, "--shard-weights", *(("--held-out", 0.3, "--eval-steps", 10, "--keep-best") if label == "galore" else ())))
        assert "weights by rank: " in messages and "  weights at once: " in messages, messages
        if label == "galore":
            assert (work / f"{label}-split" / "best" / "model" / "model.safetensors").exists()
        else:
            assert weights(f"{label}-split") == weights(f"{label}-2") and losses(f"{label}-split") == losses(f"{label}-2"), label
    for flag in ("--shard-states", "--shard-weights"):
        assert f"{flag} has no effect in one process" in run(1, *command("refused", *CLIPPED, flag), code=1)
    assert "--shard-weights does not split weights in nf4" in run(2, *command("refused", "--adapter", "lora", "--rank", 4, "--quantize", "nf4", "--shard-weights"), code=1)
    assert "--device cuda:0 is for one process; several take --device cuda" in run(2, *command("refused", *CLIPPED, "--device", "cuda:0"), code=1)

    # Processes that were not given the same, each started by hand: all end before the first step and say what differs.
    (work / "other").mkdir()
    write_model(work / "other", source, seed=2)
    (work / "other.jsonl").write_text((work / "pages.jsonl").read_text().replace("unpacks", "removes"))
    ports = iter(range(29600 + os.getpid() % 300, 30000))

    def end_unlike(command, options, difference, message):
        """Two processes of one command, the second with one option changed: both end and name the difference."""
        port, processes = next(ports), []
        for rank in (0, 1):
            words = dict(zip(*[iter(map(str, options))] * 2)) | (dict([map(str, difference)]) if rank == 1 else {})
            processes.append(subprocess.Popen([program, command, *(word for pair in words.items() for word in pair)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                              env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}))
        said = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [1, 1], said
        assert message in said[0], said[0]

    for number, (difference, message) in enumerate({("--pages", work / "other.jsonl"): "what was read of --pages is ", ("--model", work / "other"): "the fingerprint of ", ("--lr", "2e-3"): "setting train is ",
                                                    ("--max-steps", STEPS + 1): "setting train is "}.items()):
        end_unlike("train", command(f"unlike-{number}", *CLIPPED)[1:], difference, message)
        assert not (work / f"unlike-{number}" / "log.jsonl").exists() or not log(f"unlike-{number}")

    for name in ("pages", "other"):
        run(1, "tokenize", "--model", work / "model", "--pages", work / f"{name}.jsonl", "--store", work / f"{name}.store")
    end_unlike("train", training("unlike-store", "--store", work / "pages.store", "--max-steps", STEPS)[1:], ("--store", work / "other.store"), "the checksum of the training data is ")

    # A folder that another run writes to is refused by all, before one of them writes a store beside that run's.
    (work / "held").mkdir()
    held = os.open(work / "held", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert "held: another run writes to it just now" in run(2, *command("held", *CLIPPED), code=1)
    assert not list((work / "held").iterdir())
    os.close(held)

    # Stopped by a signal to the launcher, and gone on with: to the bit with as many processes, closely with another number.
    run(2, *command("whole", *GALORE), TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="1")  # in a shell of torchrun, whose store is not this run's
    for out, options in {"resumed": GALORE, "alone": CLIPPED, "sharded": (*GALORE, "--shard-states"), "split": (*GALORE, "--shard-weights")}.items():
        stopped = start(2, *command(out, *options))
        wait_for_step(out, 5)
        stopped.send_signal(signal.SIGTERM)
        messages = stopped.communicate(timeout=60)[1]
        assert stopped.returncode == 0 and "ended by: stop requested" in messages, messages
        assert 5 <= len(log(out)) < STEPS
    run(2, *command("resumed", *GALORE, "--resume"))
    assert weights("resumed") == weights("whole") and losses("resumed") == losses("whole")
    for out, flag in {"sharded": "--shard-states", "split": "--shard-weights"}.items():
        run(2, *command(out, *GALORE, "--resume", flag))
        assert weights(out) == weights("whole") and losses(out) == losses("whole"), out
    alone = command("alone", *CLIPPED, "--resume")
    alone[alone.index("--threads") + 1] = "2"  # as it is where --threads is not given: a process has the cores that two shared
    messages = run(1, *alone)
    for difference in ('processes is "1" and was "2"', 'threads is "2" and was "1"'):
        assert f"resumed although {difference}: the last bits of sums differ" in messages, messages
    assert close(losses("alone"), losses("clipped-1"))

    # Ctrl-Z stops the launcher and its ranks, for longer than a rank may be silent; they go on together, and a signal that comes meanwhile is passed on then.
    def stands_still(launcher):
        processes = [launcher.pid, *ranks(launcher).values()]
        for _ in range(500):
            states = [pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] for process in processes]
            if states == ["T"] * 3:
                return True
            time.sleep(0.01)
        raise AssertionError(f"launcher and ranks are in the states {states}, expected T, stopped")

    paused = start(2, *training("paused", "--pages", work / "pages.jsonl", "--max-steps", 100000, "--adapter", "full"), before=os.setpgrp)  # no terminal stops a group that no parent outside of it can wake
    for seconds in (1.6, 0):
        wait_for_step("paused", 3)
        paused.send_signal(signal.SIGTSTP)
        assert stands_still(paused)
        steps = len(log("paused"))
        time.sleep(seconds)
        assert len(log("paused")) == steps
        if seconds > 0:
            paused.send_signal(signal.SIGCONT)
            wait_for_step("paused", steps + 1)
    paused.send_signal(signal.SIGTERM)
    paused.send_signal(signal.SIGCONT)
    messages = paused.communicate(timeout=60)[1]
    assert paused.returncode == 0 and messages.count("dapt launch: stopped with its processes") == 2 and "ended by: stop requested" in messages, messages

    timeout, disk = 3, {"LD_PRELOAD": str(next(build.rglob("libdapt_faulty_disk.so")))}

    def on_slow_disk(out, fault, options):
        words = training(out, "--pages", work / "pages.jsonl", "--max-steps", 2, "--adapter", "full", *options)
        words[words.index("--rank-timeout") + 1] = str(timeout)
        return start(2, *words, **disk, FAULTY_DISK=fault)

    # A rank that is killed while rank 0 writes a checkpoint, for longer than the launcher lets a process live that does nothing: by many slow writes, and by one flush. It takes half a minute, while the next parts run.
    bereft = {"writes": on_slow_disk("writes", "write nap .step-000000001.tmp 0 12", ("--checkpoint-steps", 1)), "flush": on_slow_disk("flush", "fsync stall .step-000000002.tmp/.state 0 1", ())}
    for out, launcher in bereft.items():
        while not list(work.glob(f"{out}/checkpoints/.step-*.tmp/.state*")):
            assert launcher.poll() is None, launcher.communicate()[1]
            time.sleep(0.01)
        os.kill(ranks(launcher)[1], signal.SIGKILL)

    # A rank that is killed or stopped while training: all end, say who it was, and the run goes on from its last checkpoint.
    slowest, faults = 0.0, 0
    for attempt in range(times):
        for fault in (signal.SIGKILL, signal.SIGSTOP):
            for victim in (0, 1) if fault == signal.SIGKILL or times > 1 else (1,):
                out = f"fault-{attempt}-{fault.name}-{victim}"
                launcher = start(2, *command(out, *GALORE))
                wait_for_step(out, 3 + attempt % 10)
                os.kill(ranks(launcher)[victim], fault)
                begun = time.monotonic()
                faults += 1
                messages = launcher.communicate(timeout=90)[1]
                slowest = max(slowest, time.monotonic() - begun)
                assert launcher.returncode == 1, messages
                assert f"; rank {victim} " in messages, f"{out}: nobody names rank {victim}:\n{messages}"
                run(2, *command(out, *GALORE, "--resume"))
                assert weights(out) == weights("whole"), f"{out} does not end with the weights of the run without a fault"

    # Rank 0 may write for longer than --rank-timeout: the last checkpoint, one while it trains (step 2's waits for step 1's), the best weights.
    slow = {"final": ("fsync nap final/checkpoints/ 0 2", ("--shard-weights",)), "periodic": ("fsync nap .step-000000001.tmp 0 2", ("--checkpoint-steps", 1)),
            "best": ("fsync nap best/best/model 0 2", ("--held-out", 0.3, "--eval-steps", 2, "--keep-best"))}
    begun = time.monotonic()
    writing = {out: on_slow_disk(out, *how) for out, how in slow.items()}
    for out, launcher in writing.items():
        messages = launcher.communicate(timeout=60)[1]
        assert launcher.returncode == 0 and time.monotonic() - begun > timeout, f"{out}: exit status {launcher.returncode}\n{messages}"
        for file in ("checkpoints/step-000000002/checkpoint.json", "model/model.safetensors", *(["best/model/model.safetensors"] if out == "best" else [])):
            assert (work / out / file).exists(), (out, file)

    for (out, launcher), step in zip(bereft.items(), (1, 2), strict=True):
        messages = launcher.communicate(timeout=60)[1]
        assert launcher.returncode == 1 and messages.count("dapt launch: rank 0 still writes, and is waited for") == 1, messages
        assert (work / out / f"checkpoints/step-{step:09}/checkpoint.json").exists(), (out, messages)

    # Questions split over two processes: the results of one.
    (work / "qa.jsonl").write_text("".join(json.dumps({"id": f"q{i}", "question": f"What does {word} do?", "answers": [word]}) + "\n" for i, word in enumerate(("apt", "dpkg", "make", "gcc", "cron"))))
    (work / "cloze.jsonl").write_text("".join(json.dumps({"id": f"c{i}", "sentence": "The tool {word} unpacks packages.", "candidates": ["dpkg", "make", "vim"][: 2 + i % 2], "answer": "dpkg"}) + "\n" for i in range(5)))
    for count in (1, 2):
        printed = run(count, "eval", "--model", str(work / "model"), "--dtype", "fp32", "--threads", "1", "--qa", str(work / "qa.jsonl"), "--cloze", str(work / "cloze.jsonl"), "--pages", str(work / "pages.jsonl"),
                      "--max-length", "64", "--out", str(work / f"results-{count}.json"))
        assert printed.count("qa_exact") >= 1
    assert (work / "results-1.json").read_bytes() == (work / "results-2.json").read_bytes()
    (work / "other-cloze.jsonl").write_text((work / "cloze.jsonl").read_text().replace("unpacks", "removes"))
    for difference, message in {("--cloze", work / "other-cloze.jsonl"): "the checksum of tasks and held-out pages is ", ("--fewshot", work / "qa.jsonl"): "the checksum of tasks and held-out pages is ",
                                ("--dtype", "bf16"): "what is scored is ", ("--peft", work / "no-adapter"): "what is scored is "}.items():
        end_unlike("eval", ("--model", work / "model", "--dtype", "fp32", "--threads", 1, "--qa", work / "qa.jsonl", "--cloze", work / "cloze.jsonl", "--rank-timeout", 20), difference, message)

    # Held-out pages while training, and the best weights; a comparison; filters whose scorer is two models, and a classifier.
    for count in (1, 2):
        run(count, *command(f"evaluated-{count}", *CLIPPED, "--held-out", 0.3, "--eval-steps", 5, "--keep-best"))
    alone, together = ([json.loads(line) for line in (work / f"evaluated-{count}" / "evaluations.jsonl").read_text().splitlines()] for count in (1, 2))
    assert [line["step"] for line in alone] == [line["step"] for line in together] == [5, 10, 15, 20]
    assert all(abs(a["perplexity"] / b["perplexity"] - 1) < 1e-5 for a, b in zip(alone, together)), (alone, together)
    assert (work / "evaluated-2" / "best" / "model" / "model.safetensors").exists()

    # Stopped while it is evaluated, such a run makes the evaluation again before it goes on.
    (work / "long.jsonl").write_text("".join(json.dumps({"work": "w", "page": i, "text": f"Page {i} tells how dpkg unpacks package {i * i}. " * 50}) + "\n" for i in range(60)))
    evaluating = ("--adapter", "full", "--pages", work / "long.jsonl", "--max-steps", 2, "--held-out", 0.9, "--eval-steps", 1, "--keep-best", "--shard-weights", "--resume")
    run(2, *training("whole-evaluation", *evaluating))
    stopped = start(2, *training("stopped-evaluation", *evaluating))
    wait_for_step("stopped-evaluation", 1)
    stopped.send_signal(signal.SIGTERM)
    messages = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 0 and "ended by: stop requested" in messages, messages
    assert len(log("stopped-evaluation")) == 1 and not (work / "stopped-evaluation" / "evaluations.jsonl").read_text()
    run(2, *training("stopped-evaluation", *evaluating))
    for file in ("evaluations.jsonl", "best/evaluation.json", "best/model/model.safetensors", "model/model.safetensors"):
        assert (work / "stopped-evaluation" / file).read_bytes() == (work / "whole-evaluation" / file).read_bytes(), file

    def comparison(out, *options):
        return ["compare", "--model", work / "model", "--pages", work / "pages.jsonl", "--max-length", 64, "--batch-size", 4, "--dtype", "fp32", "--threads", 1, "--lr", "1e-3", "--max-steps", 5, "--held-out", 0.3, "--checkpoint-steps", 1,
                "--cloze", work / "cloze.jsonl", "--setting", "LoRA = --adapter lora --rank 4", "--setting", "full = --adapter full", "--rank-timeout", 20, "--out", work / out, *options]

    def compare(count, *options):
        return run(count, *comparison(f"compared-{count}", *options))

    compare(1)
    compare(2, "--shard-weights")
    for setting in ("base", "lora", "full"):
        one, two = (json.loads((work / f"compared-{count}" / setting / "result.json").read_text()) for count in (1, 2))
        for a, b in zip(one["metrics"], two["metrics"], strict=True):
            assert a["name"] == b["name"] and abs(a["value"] / b["value"] - 1) < 1e-5, (setting, a["name"], a["value"], b["value"])
    assert (work / "compared-2" / "report.html").exists()
    assert compare(2, "--shard-weights", "--resume").count("complete already: ") == 3

    # A comparison that is stopped while its second setting trains, its disk being slow, goes on to the results of one that was not.
    stopped = start(2, *comparison("stopped", "--shard-weights"), LD_PRELOAD=str(next(build.rglob("libdapt_faulty_disk.so"))), FAULTY_DISK="fsync nap full/checkpoints/.step-000000003 0 1")
    while not list(work.glob("stopped/full/checkpoints/.step-000000003.tmp")):
        assert stopped.poll() is None, stopped.communicate()[1]
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    messages = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 0 and not (work / "stopped" / "full" / "result.json").exists(), messages
    assert run(2, *comparison("stopped", "--shard-weights", "--resume")).count("complete already: ") == 2
    for setting in ("base", "lora", "full"):
        whole, resumed = (json.loads((work / out / setting / "result.json").read_text()) for out in ("compared-2", "stopped"))
        assert whole["metrics"] == resumed["metrics"], (setting, whole["metrics"], resumed["metrics"])
    assert losses("stopped/full") == losses("compared-2/full")

    # Stopped by a signal to its second process alone, with nothing to score, a comparison is not complete.
    unscored = list(map(str, comparison("unscored")))
    del unscored[unscored.index("--cloze"):unscored.index("--cloze") + 2]
    for option, value in {"--held-out": "0", "--max-steps": "60"}.items():
        unscored[unscored.index(option) + 1] = value
    stopped = start(2, *unscored)
    wait_for_step("unscored/lora", 5)
    os.kill(ranks(stopped)[1], signal.SIGTERM)
    messages = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 0 and not (work / "unscored" / "lora" / "result.json").exists() and not (work / "unscored" / "full").exists(), messages
    assert 5 <= len(log("unscored/lora")) < 60, "the setting ended before it was stopped"
    assert run(2, *unscored, "--resume").count("complete already: ") == 1
    assert len(log("unscored/lora")) == len(log("unscored/full")) == 60

    (work / "many.jsonl").write_text("".join(json.dumps({"work": "w", "page": i, "text": f"Page {i} tells how dpkg unpacks package {i * i}."}) + "\n" for i in range(600)))
    (work / "classifier").mkdir()
    for file, recorded in (("config.json", "encoders/bert/config.json"), ("model.safetensors", "encoders/bert/model.safetensors"), ("tokenizer.json", "text/bert.tokenizer.json")):
        (work / "classifier" / file).symlink_to(source / "tests/parity" / recorded)
    for count in (1, 2):
        messages = run(count, "filter", "--pages", work / "many.jsonl", "--duplicates", "off", "--threads", "1", "--scorer", "lm", "--domain-model", work / "clipped-1" / "model", "--general-model", work / "model",
                       "--write-scores", work / f"scores-{count}", "--out", work / f"filtered-{count}")
        assert messages.count("read: 600 pages") == 1, messages
        run(count, "filter", "--pages", work / "many.jsonl", "--duplicates", "off", "--threads", "1", "--scorer", "classifier", "--classifier", work / "classifier", "--classifier-label", "good", "--min-score", -100,
            "--write-scores", work / f"classified-{count}", "--out", work / f"filtered-by-class-{count}")
    for name in ("scores", "filtered", "classified", "filtered-by-class"):
        assert (work / f"{name}-1").read_bytes() == (work / f"{name}-2").read_bytes(), name
    assert len((work / "filtered-1").read_text().splitlines()) > 300

    scored = ("--pages", work / "many.jsonl", "--duplicates", "off", "--scorer", "lm", "--domain-model", work / "model", "--general-model", work / "other", "--threads", 1, "--out", work / "unlike.jsonl", "--rank-timeout", 20)
    (work / "others.jsonl").write_text((work / "many.jsonl").read_text().replace("package 90000.", "package 90001."))
    end_unlike("filter", scored, ("--domain-model", work / "clipped-1" / "model"), "what scores the pages is ")
    end_unlike("filter", scored, ("--pages", work / "others.jsonl"), "rank 1 reads other pages than rank 0, somewhere from ")
    (work / "fewer.jsonl").write_text("".join((work / "many.jsonl").read_text().splitlines(True)[:512]))  # as many as are scored at once
    end_unlike("filter", scored, ("--pages", work / "fewer.jsonl"), "rank 1 reads other pages than rank 0, somewhere from ")
    unscored = ("--pages", work / "many.jsonl", "--duplicates", "off", "--threads", 1, "--out", work / "unlike.jsonl", "--rank-timeout", 20)
    end_unlike("filter", unscored, ("--pages", work / "others.jsonl"), "what was read of --pages is 600 pages with the checksum ")
    assert not (work / "unlike.jsonl").exists()

    # Of a pipe each process would read a part.
    os.mkfifo(work / "pipe")
    for option, others in {"--pages": (), "--qa": ("--pages", work / "many.jsonl"), "--terms": ("--pages", work / "many.jsonl", "--scorer", "terms", "--min-score", 0)}.items():
        assert f"{option}: {work}/pipe is no file or folder, and several processes" in run(2, "filter", *others, "--duplicates", "off", option, work / "pipe", code=1), option
    assert f"--fewshot: {work}/pipe is no file or folder, and several processes" in run(2, *comparison("piped", "--qa", work / "qa.jsonl", "--fewshot", work / "pipe"), code=1)
    messages = start(2, "filter", "--config", work / "pipe", "--pages", work / "many.jsonl").communicate(timeout=60)[1]
    assert f"--config: {work}/pipe is no file, and several processes" in messages, messages

    # A filter whose process is killed, and one that is stopped, go on behind the pages whose scores were written.
    (work / "more.jsonl").write_text("".join(json.dumps({"work": "w", "page": i, "text": f"Page {i} tells how dpkg unpacks package {i * i}."}) + "\n" for i in range(1600)))

    def scoring(out, *options):
        return ["filter", "--pages", work / "more.jsonl", "--duplicates", "off", "--threads", 1, "--scorer", "lm", "--domain-model", work / "clipped-1" / "model", "--general-model", work / "model", "--write-scores", work / out,
                "--rank-timeout", 5, *options]

    run(2, *scoring("scores-whole"))
    for fault in (signal.SIGKILL, signal.SIGTERM):
        launcher, partial = start(2, *scoring("scores-stopped")), work / ".scores-stopped.partial"
        while not (partial.exists() and len(partial.read_bytes().splitlines()) > 512):
            assert launcher.poll() is None, launcher.communicate()[1]
            time.sleep(0.01)
        if fault == signal.SIGKILL:
            os.kill(ranks(launcher)[1], fault)
        else:
            launcher.send_signal(fault)
        messages = launcher.communicate(timeout=60)[1]
        assert launcher.returncode == 1 and not (work / "scores-stopped").exists(), messages
        assert ("; rank 1 " if fault == signal.SIGKILL else "the same command goes on from there") in messages, messages
        messages = run(2, *scoring("scores-stopped"))
        assert "pages are those of a run that was stopped" in messages, messages
        assert (work / "scores-stopped").read_bytes() == (work / "scores-whole").read_bytes()
        (work / "scores-stopped").unlink()

    messages = run(2, "merge", "--model", work / "model", "--peft", work / "lora-1" / "adapter", "--out", work / "merged", code=1)
    assert "is the work of one process" in messages, messages
    print(f"losses alike; {faults} faults named within {slowest:.1f} s, nothing lost but steps after the last checkpoint; evaluation equal")
