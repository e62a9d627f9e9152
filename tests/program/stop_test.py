"""Runs that are stopped, killed, left by their terminal, or that meet a loss that is no number; and comparisons that go on.

usage: stop_test.py SOURCE_DIR BUILD_DIR
"""
import csv
import fcntl
import json
import os
import pathlib
import pty
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest

from tiny_model import write_model

source, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
program = build / "bin" / "dapt"
library = next(build.rglob("libdapt_faulty_disk.so"))
def is_of_the_run(key):
    """Whether a column or key of a log is the same in each run; not so the machine's speed."""
    return not key.endswith("seconds") and key not in ("tokens_per_second", "peak_memory_bytes")


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(data):
    """(number, value) of each field of a protocol-buffer message."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            size, at = {1: (8, at), 5: (4, at)}.get(key & 7) or varint(data, at)
            value, at = data[at:at + size], at + size
        yield key >> 3, value


def scalars(folder):
    """(step, tag, value) of all event files, in order; without those that depend on the machine's speed."""
    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at:at + 8], "little")
            event = list(fields(data[at + 12:at + 12 + size]))
            at += 16 + size
            step = dict(event).get(2, 0)
            for number, summary in event:
                for _, value in fields(summary) if number == 5 else ():
                    value = dict(fields(value))
                    tag = value[1].decode()
                    if not tag.startswith(("speed/", "seconds/", "memory/")):
                        found.append((step, tag, struct.unpack("<f", value[2])[0]))
    return sorted(found)


def is_held_out(work, page, share):
    """is_held_out of examples/dapt/corpus.cpp: FNV-1a of 64 bits, mixed."""
    value = 0xcbf29ce484222325
    for byte in f"{work}\0{page}".encode():
        value = (value ^ byte) * 0x100000001b3 % 2**64
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD % 2**64
    return ((value ^ value >> 33) >> 11) * 2**-53 < share


class Stop(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.model = self.folder / "model"
        self.model.mkdir()
        write_model(self.model, source)
        self.pages = self.folder / "pages.jsonl"
        self.write_pages([f"Page {i} tells how dpkg unpacks package {i * i}. " * 20 for i in range(20)])

    def write_pages(self, texts):
        self.pages.write_text("".join(json.dumps({"work": "w", "page": i, "text": text}) + "\n" for i, text in enumerate(texts)))

    def write_pages_of_two_fields(self):
        """The held-out fifth is of another field than what is trained on, so that the lowest perplexity comes before the last."""
        self.write_pages([(f"The cook peels onion {i} and lets it fry in a pan of butter. " if is_held_out("w", i, 0.2) else f"Page {i} tells how dpkg unpacks package {i * i}. ") * 20
                          for i in range(20)])

    def command(self, name, out, *options, lr="1e-3"):
        return list(map(str, [program, name, "--model", self.model, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--lr", lr, "--out", out, *options]))

    def run_to_its_end(self, name, out, *options, **lr):
        return subprocess.run(self.command(name, out, *options, **lr), capture_output=True, text=True)

    def start(self, name, out, *options, fault=None, lr="1e-3", launcher=(), **streams):
        environment = dict(os.environ) | ({"LD_PRELOAD": str(library), "FAULTY_DISK": fault} if fault else {})
        command = self.command(name, out, *options, lr=lr)
        process = subprocess.Popen([command[0], *launcher, *command[1:]], env=environment, **({"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | streams))
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, process, condition):
        while not condition():
            self.assertIsNone(process.poll(), "the run ended before it came to the place")
            time.sleep(0.01)

    def writer_to(self, process, pipe):
        """The pipe, once the process reads from it."""
        opened = []

        def is_read():
            try:
                opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # no reader yet
                return False
            os.set_blocking(opened[0], True)
            return True

        self.wait_for(process, is_read)
        return os.fdopen(opened[0], "w")

    def steps(self, out):
        log = out / "log.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def log(self, out):
        return [{key: value for key, value in json.loads(line).items() if is_of_the_run(key)} for line in (out / "log.jsonl").read_text().splitlines()]

    def assertGood(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_the_log_and_the_events_of_a_killed_run_are_those_of_one_that_was_not(self):
        options = ("--max-steps", 60, "--checkpoint-steps", 7, "--rank", 2)
        whole, out = self.folder / "whole", self.folder / "out"
        self.assertGood(self.run_to_its_end("train", whole, *options))
        process = self.start("train", out, *options)
        self.wait_for(process, lambda: self.steps(out) >= 5)
        process.kill()
        process.wait()
        for _ in range(2):
            process = self.start("train", out, *options, "--resume")
            before = self.steps(out)
            self.wait_for(process, lambda: self.steps(out) >= before + 5)
            process.kill()
            process.wait()
            self.assertLess(self.steps(out), 60)
        self.assertGood(self.run_to_its_end("train", out, *options, "--resume"))
        self.assertEqual(self.log(out), self.log(whole))
        self.assertEqual(scalars(out), scalars(whole))
        self.assertEqual(len(scalars(out)), 60 * 4)

    def test_a_run_that_begins_anew_leaves_nothing_of_one_that_was_killed_before_its_first_checkpoint(self):
        whole, out = self.folder / "whole", self.folder / "out"
        self.assertGood(self.run_to_its_end("train", whole, "--max-steps", 10, "--rank", 2))
        process = self.start("train", out, "--max-steps", 100000, "--rank", 2)
        self.wait_for(process, lambda: self.steps(out) >= 20)
        process.kill()
        process.wait()
        self.assertGood(self.run_to_its_end("train", out, "--max-steps", 10, "--rank", 2))
        self.assertEqual(self.log(out), self.log(whole))
        self.assertEqual(scalars(out), scalars(whole))

    def test_a_comparison_whose_questions_are_others_by_now_goes_on_where_that_is_allowed(self):
        out, qa = self.folder / "out", self.folder / "qa.jsonl"
        questions = [json.dumps({"id": f"q{i}", "question": "Which tool unpacks?", "answers": ["dpkg"], "group": "tools"}) + "\n" for i in range(2)]
        options = ("--qa", qa, "--max-steps", 2, "--held-out", 0, "--setting", "a = --rank 2")
        qa.write_text("".join(questions))
        self.assertGood(self.run_to_its_end("compare", out, *options))
        qa.write_text(questions[0])
        result = self.run_to_its_end("compare", out, *options[:-1], "A = --rank 2", "--setting", "b = --rank 4", "--resume", "--allow-changes")  # by another name, of the same folder
        self.assertGood(result)
        self.assertIn("resumed although checksum of tasks and held-out pages is ", result.stderr)
        self.assertTrue((out / "b/result.json").exists() and (out / "report.html").exists())
        with (out / "settings.csv").open() as file:
            self.assertEqual([row["setting"] for row in csv.DictReader(file)], ["base", "A", "b"])

    def test_sigterm_and_sigint_save_what_was_reached(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            out = self.folder / number.name
            process = self.start("train", out, "--max-steps", 100000)
            self.wait_for(process, lambda: self.steps(out) > 0)
            process.send_signal(number)
            self.assertEqual(process.wait(timeout=60), 0)
            self.assertEqual([folder.name for folder in (out / "checkpoints").iterdir()], [f"step-{self.steps(out):09}"])
            self.assertTrue((out / "adapter/adapter_config.json").exists())

    def test_a_second_signal_ends_the_program_at_once_also_while_it_saves(self):
        out = self.folder / "out"
        process = self.start("train", out, "--max-steps", 100000, fault="fsync sleep /checkpoints/.step 0 0")  # saving takes a minute
        self.wait_for(process, lambda: self.steps(out) > 0)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # at once: the same one on another way
        self.wait_for(process, lambda: list(out.glob("checkpoints/.step-*.tmp")))
        time.sleep(0.6)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=30), 130)
        self.assertEqual(list(out.glob("checkpoints/step-*")), [])
        result = self.run_to_its_end("train", out, "--max-steps", 2, "--resume")  # nothing half-written is taken
        self.assertGood(result)
        self.assertIn("resumed from: nothing", result.stderr)
        self.assertEqual([folder.name for folder in (out / "checkpoints").iterdir()], ["step-000000002"])

    def test_part_of_a_tokenized_file_or_of_an_evaluation_does_not_pass_for_the_whole(self):
        pages, out = self.folder / "pipe", self.folder / "ids.jsonl"
        for packed in ([], ["--packed", "--max-length", 16]):
            os.mkfifo(pages)
            process = subprocess.Popen(list(map(str, [program, "tokenize", "--model", self.model, "--pages", pages, "--out", out, *packed])), stderr=subprocess.PIPE, text=True)
            self.addCleanup(process.kill)
            with self.writer_to(process, pages) as writer:
                writer.write(self.pages.read_text())
                process.send_signal(signal.SIGTERM)
                time.sleep(0.1)
            messages = process.communicate(timeout=60)[1]
            self.assertEqual(process.returncode, 1, messages)
            self.assertIn("tokenize: stopped before the last page", messages)
            pages.unlink()
            self.assertEqual(sorted(file.name for file in self.folder.iterdir()), ["model", "pages.jsonl"])

        wanted = 2000
        screen, keyboard = pty.openpty()  # on which each model has its progress line
        process = subprocess.Popen(list(map(str, [program, "eval", *["--model", self.model] * wanted, "--pages", self.pages, "--max-length", 64, "--dtype", "fp32", "--threads", 1, "--out", out])),
                                   stdout=subprocess.DEVNULL, stderr=keyboard)
        self.addCleanup(process.kill)
        os.close(keyboard)
        messages = ""
        while messages.count("perplexity") < 3:  # of two models and a third
            messages += os.read(screen, 2**16).decode()
        process.send_signal(signal.SIGINT)
        while True:
            try:
                messages += os.read(screen, 2**16).decode()
            except OSError:  # nobody writes any more
                break
        os.close(screen)
        self.assertEqual(process.wait(timeout=60), 1, messages)
        results = json.loads(out.read_text())
        self.assertTrue(2 <= len(results) < wanted)
        self.assertIn(f"eval: stopped when {len(results)} of {wanted} models and adapters were scored; their results are in {out}", messages)

    def test_a_terminal_that_is_closed_does_not_end_a_run(self):
        for launcher in ((), ("launch", "-n", "2", "--")):
            with self.subTest(launcher):
                out = self.folder / f"out-{len(launcher)}"
                screen, keyboard = pty.openpty()

                def own_the_terminal():
                    os.setsid()
                    fcntl.ioctl(keyboard, termios.TIOCSCTTY, 0)

                process = self.start("train", out, "--max-steps", 150, launcher=launcher, stdin=keyboard, stdout=keyboard, stderr=keyboard, preexec_fn=own_the_terminal)
                os.close(keyboard)
                os.set_blocking(screen, False)

                def has_begun():
                    try:
                        os.read(screen, 2**16)  # or the terminal is full, and writing to it waits
                    except BlockingIOError:
                        pass
                    return self.steps(out) > 0

                self.wait_for(process, has_begun)
                os.close(screen)
                self.assertLess(self.steps(out), 150, "the run ended before the terminal was closed")
                self.assertEqual(process.wait(timeout=120), 0)
                self.assertEqual(self.steps(out), 150)
                self.assertTrue((out / "adapter/adapter_config.json").exists())

    def test_one_run_at_a_time_writes_to_a_folder(self):
        out = self.folder / "out"
        process = self.start("train", out, "--max-steps", 200)
        self.wait_for(process, lambda: self.steps(out) > 0)
        second = self.run_to_its_end("train", out, "--max-steps", 300, "--resume")
        self.assertIsNone(process.poll(), "the run ended before the second one was tried")
        self.assertEqual(second.returncode, 1)
        self.assertIn("out: another run writes to it just now", second.stderr)
        self.assertEqual(process.wait(timeout=120), 0)
        self.assertEqual(self.steps(out), 200)
        self.assertGood(self.run_to_its_end("train", out, "--max-steps", 201, "--resume"))  # whoever ended holds nothing

    def test_a_run_goes_on_from_a_base_that_was_moved_and_not_from_another_one(self):
        whole, out, small = self.folder / "whole", self.folder / "out", ("--rank", 2)
        self.assertGood(self.run_to_its_end("train", whole, *small, "--max-steps", 6))
        self.assertGood(self.run_to_its_end("train", out, *small, "--max-steps", 3))
        self.model = self.model.rename(self.folder / "moved")
        self.assertGood(self.run_to_its_end("train", out, *small, "--max-steps", 6, "--resume"))
        weights = "adapter/adapter_model.safetensors"
        self.assertEqual((out / weights).read_bytes(), (whole / weights).read_bytes())
        write_model(self.model, source, seed=2)
        refused = self.run_to_its_end("train", out, *small, "--max-steps", 8, "--resume")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("fingerprint of the base model is", refused.stderr)

    def test_a_run_goes_on_from_an_adapter_by_another_name_and_not_from_another_adapter(self):
        first, whole, out, compared = (self.folder / name for name in ("first", "whole", "out", "compared"))
        self.assertGood(self.run_to_its_end("train", first, "--rank", 2, "--max-steps", 2))
        adapter = (first / "adapter").rename(self.folder / "caf\udce9")  # a name of another system, which is no UTF-8
        self.assertGood(self.run_to_its_end("train", self.folder / "second", "--rank", 2, "--max-steps", 3))
        self.assertGood(self.run_to_its_end("train", whole, "--init-adapter", adapter, "--max-steps", 4))
        self.assertGood(self.run_to_its_end("train", out, "--init-adapter", adapter, "--max-steps", 2))
        comparing = ("--held-out", 0, "--max-steps", 2, "--setting", "on = --loraplus-lr-ratio 2")
        self.assertGood(self.run_to_its_end("compare", compared, *comparing, "--init-adapter", adapter))
        adapter = adapter.rename(self.folder / "moved")
        for steps, name in ((3, self.folder / "first/../moved"), (4, adapter)):
            self.assertGood(self.run_to_its_end("train", out, "--init-adapter", name, "--max-steps", steps, "--resume"))
        weights = "adapter/adapter_model.safetensors"
        self.assertEqual((out / weights).read_bytes(), (whole / weights).read_bytes())
        resumed = self.run_to_its_end("compare", compared, *comparing, "--init-adapter", adapter, "--resume")
        self.assertGood(resumed)
        self.assertEqual(resumed.stderr.count("complete already: "), 2)
        other = ("--init-adapter", self.folder / "second/adapter", "--resume")
        for refused in (self.run_to_its_end("train", out, "--max-steps", 6, *other), self.run_to_its_end("compare", compared, *comparing, *other)):
            self.assertEqual(refused.returncode, 1)
            self.assertIn("fingerprint", refused.stderr)

    def test_a_number_is_the_same_however_it_is_written(self):
        out, config = self.folder / "out", self.folder / "run.toml"
        config.write_text("[compare]\nalpha = 4.0\nmax-grad-norm = 1e-4\n")
        options = ("--max-steps", 1, "--held-out", 0, "--setting")
        self.assertGood(self.run_to_its_end("compare", out, *options, "one = --rank 2", "--config", config))
        result = self.run_to_its_end("compare", out, *options, "one = --rank +2 --max-grad-norm 0.0001", "--alpha", 4, "--resume", lr="0.001")
        self.assertGood(result)
        self.assertEqual(result.stderr.count("complete already: "), 2)
        refused = self.run_to_its_end("compare", out, *options, "one = --rank 2", "--alpha", 5, "--max-grad-norm", "1e-4", "--resume")
        self.assertEqual(refused.returncode, 1)
        self.assertIn('--alpha is "5" and was "4"', refused.stderr)

    def test_held_out_pages_that_are_others_by_now_are_said_where_they_are_measured(self):
        store, out, model = self.folder / "pages.store", self.folder / "out", self.model
        held_out = next(i for i in range(20) if is_held_out("w", i, 0.2))
        texts = [f"Page {i} tells how dpkg unpacks package {i * i}. " * 20 for i in range(20)]

        def train(steps, *options):
            command = [program, "train", "--model", model, "--store", store, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--rank", 2, "--lr", "1e-2", "--out", out, "--max-steps", steps,
                       *options]
            return subprocess.run(list(map(str, command)), capture_output=True, text=True)

        def write_store(text):
            texts[held_out] = text
            self.write_pages(texts)
            store.unlink(missing_ok=True)
            self.assertGood(subprocess.run(list(map(str, [program, "tokenize", "--model", model, "--pages", self.pages, "--held-out", 0.2, "--store", store])), capture_output=True, text=True))

        evaluating = ("--eval-steps", 1, "--keep-best", "--resume")
        write_store("A page tells how dpkg unpacks package 7. " * 20)
        self.assertGood(train(20))
        self.assertGood(train(21, *evaluating))  # nothing was measured before
        write_store("The cook peels an onion and lets it fry. " * 20)
        refused = train(22, *evaluating)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("--resume: checksum of what is measured as perplexity is ", refused.stderr)
        result = train(22, *evaluating, "--allow-changes")
        self.assertGood(result)
        self.assertIn("resumed although checksum of what is measured as perplexity is ", result.stderr)
        *_, before, after = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
        self.assertEqual((before["step"], after["step"]), (21, 22))
        self.assertLess(before["perplexity"], after["perplexity"])  # of other pages, and so no better
        self.assertEqual(json.loads((out / "best/evaluation.json").read_text()), after)
        self.assertIn("after step 22, in ", result.stderr)
        self.assertGood(train(23, "--resume"))  # nothing is measured any more

    def test_a_merge_and_a_check_end_at_a_signal(self):
        self.assertGood(self.run_to_its_end("train", self.folder / "out", "--rank", 2, "--max-steps", 1))
        broken = self.folder / "broken"
        broken.mkdir()
        shutil.copy(self.model / "model.safetensors", broken)
        os.mkfifo(broken / "config.json")
        for command in (["merge", "--model", broken, "--peft", self.folder / "out/adapter", "--out", self.folder / "merged"], ["check", broken]):
            process = subprocess.Popen(list(map(str, [program, *command])), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.addCleanup(process.kill)
            with self.writer_to(process, broken / "config.json"):
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(timeout=30), -signal.SIGTERM, command[0])

    def test_a_checkpoint_folder_that_cannot_be_read_does_not_count_as_empty(self):
        out = self.folder / "out"
        out.mkdir()
        (out / "checkpoints").write_text("no folder")
        refused = self.run_to_its_end("train", out, "--max-steps", 1, "--resume")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("checkpoints: cannot look for checkpoints: Not a directory", refused.stderr)

    def test_what_is_said_of_the_best_weights_is_what_is_there(self):
        out, evaluated = self.folder / "out", ("--rank", 4, "--eval-steps", 3, "--held-out", 0.2)
        self.write_pages_of_two_fields()
        self.assertGood(self.run_to_its_end("train", out, *evaluated, "--max-steps", 40, lr="1e-2"))
        result = self.run_to_its_end("train", out, *evaluated, "--max-steps", 43, "--resume", "--keep-best", lr="1e-2")
        self.assertGood(result)
        *before, last = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
        self.assertLess(min(line["perplexity"] for line in before), last["perplexity"])  # its weights were not kept
        self.assertEqual(json.loads((out / "best/evaluation.json").read_text()), last)
        self.assertIn(f"after step 42, in {out}/best", result.stderr)

    def test_messages_that_nobody_reads_do_not_end_a_run(self):
        out = self.folder / "out"
        process = self.start("train", out, "--max-steps", 3, stderr=subprocess.PIPE)
        process.stderr.close()
        self.assertEqual(process.wait(timeout=120), 0)
        self.assertEqual(self.steps(out), 3)

    def test_a_loss_that_is_no_number_stops_the_run_or_is_skipped_and_counted(self):
        self.write_pages([f"Page {i} tells how dpkg unpacks package {i * i}. " * (1 if i == 3 else 20) + ("\u03a9" if i == 3 else "") for i in range(8)])
        ids = [set(json.loads(line)["ids"]) for line in subprocess.run([program, "tokenize", "--model", self.model, "--pages", self.pages], capture_output=True, text=True).stdout.splitlines()]
        spoiled = ids[3].difference(*(ids[i] for i in range(8) if i != 3))
        self.assertTrue(spoiled)
        write_model(self.model, source, spoiled)
        out = self.folder / "out"
        result = self.run_to_its_end("train", out, "--max-steps", 60)
        self.assertEqual(result.returncode, 1)
        self.assertIn("nan in micro-batch", result.stderr)
        out = self.folder / "skipping"
        result = self.run_to_its_end("train", out, "--max-steps", 60, "--on-bad-loss", "skip")
        self.assertGood(result)
        log = self.log(out)
        skipped = [line["step"] for line in log if line["skipped"]]
        self.assertGreaterEqual(len(skipped), 1)
        self.assertLess(len(skipped), 20)
        self.assertEqual([line["step"] for line in log if line["loss"] is None], skipped)
        self.assertEqual([line["skipped_steps"] for line in log], [sum(step <= line["step"] for step in skipped) for line in log])
        self.assertIn(f"{60 - len(skipped)} steps, {len(skipped)} skipped, ", result.stderr)
        self.assertIn("on_bad_loss: skip", result.stderr)
        ended = self.folder / "ended"
        result = self.run_to_its_end("train", ended, "--max-steps", 60)
        self.assertEqual(result.returncode, 1)
        self.assertEqual([folder.name for folder in (ended / "checkpoints").iterdir()], [f"step-{skipped[0] - 1:09}"])  # what was reached is saved
        self.assertEqual(self.log(ended), log[:skipped[0] - 1])
        self.assertTrue((ended / "adapter/adapter_model.safetensors").exists())
        result = self.run_to_its_end("train", ended, "--max-steps", 60, "--resume", "--on-bad-loss", "skip")
        self.assertGood(result)
        self.assertIn(f"after step {skipped[0] - 1}\n", result.stderr)
        self.assertEqual(self.log(ended), log)
        self.assertEqual((ended / "adapter/adapter_model.safetensors").read_bytes(), (out / "adapter/adapter_model.safetensors").read_bytes())
        compared = self.folder / "compared"
        self.assertGood(self.run_to_its_end("compare", compared, "--max-steps", 60, "--held-out", 0, "--setting", "one = --on-bad-loss skip"))
        self.assertGood(self.run_to_its_end("compare", compared, "--max-steps", 60, "--held-out", 0, "--setting", "one = --on-bad-loss stop", "--resume"))  # complete already
        row = next(row for row in csv.DictReader((compared / "settings.csv").read_text().splitlines(True)) if row["setting"] == "one")
        self.assertEqual((row["steps"], row["skipped"]), (str(60 - len(skipped)), str(len(skipped))))

    def test_a_comparison_that_was_stopped_or_killed_goes_on_and_its_report_is_that_of_one_that_was_not(self):
        cloze = self.folder / "cloze.jsonl"
        cloze.write_text("".join((source / "examples/debian/cloze.jsonl").read_text(encoding="utf-8").splitlines(True)[:3]), encoding="utf-8")
        options = ["--cloze", cloze, "--held-out", 0.2, "--max-steps", 6, "--checkpoint-steps", 1, "--setting", "Small = --rank 2", "--setting",
                   "All = --adapter full --optimizer galore-adamw --galore-rank 8 --update-proj-gap 3"]
        whole = self.folder / "whole"
        self.assertGood(self.run_to_its_end("compare", whole, *options))

        def table(out, file):
            rows = list(csv.DictReader((out / file).read_text(encoding="utf-8").splitlines(True)))
            self.assertTrue(rows)
            return [{key: value for key, value in row.items() if is_of_the_run(key)} for row in rows]

        def assertWhole(out):
            for file in ("settings.csv", "steps.csv", "questions.csv"):
                self.assertEqual(table(out, file), table(whole, file), file)
            peaks = lambda file, setting: [int(row["peak_memory_bytes"]) for row in csv.DictReader((out / file).read_text(encoding="utf-8").splitlines(True)) if row["setting"] == setting]
            for setting in ("Small", "All"):
                self.assertGreaterEqual(peaks("settings.csv", setting)[0], max(peaks("steps.csv", setting)))
            for file in ("small/adapter/adapter_model.safetensors", "all/model/model.safetensors"):
                self.assertEqual((out / file).read_bytes(), (whole / file).read_bytes())
            for setting in ("small", "all"):
                self.assertEqual(self.log(out / setting), self.log(whole / setting))
                self.assertEqual(scalars(out / setting), scalars(whole / setting))
            self.assertEqual([file.name for file in out.rglob("checkpoints")], [])
            self.assertEqual((out / "report.md").read_text(encoding="utf-8").count("\n"), (whole / "report.md").read_text(encoding="utf-8").count("\n"))

        places = {"base": ("fsync sleep base/.result.json 0 0", lambda out: list(out.glob("base/.result.json.*"))),
                  "first": ("fsync sleep small/checkpoints/.step-000000003 0 0", lambda out: list(out.glob("small/checkpoints/.step-000000003.tmp"))),
                  "scored": ("fsync sleep small/.result.json 0 0", lambda out: list(out.glob("small/.result.json.*"))),
                  "second": ("fsync sleep /all/checkpoints/.step-000000004 0 0", lambda out: list(out.glob("all/checkpoints/.step-000000004.tmp"))),
                  "report": ("fsync sleep /.report.md 1 0", lambda out: (out / "all/result.json").exists() and list(out.glob(".report.md.*")))}
        for place, (fault, reached) in places.items():
            with self.subTest(place):
                out = self.folder / place
                process = self.start("compare", out, *options, fault=fault)
                self.wait_for(process, lambda: reached(out))
                process.kill()
                process.wait()
                complete = {setting: (out / setting / "result.json").stat().st_mtime_ns for setting in ("base", "small", "all") if (out / setting / "result.json").exists()}
                models = {file: file.stat().st_mtime_ns for setting in complete for file in (out / setting).rglob("*model.safetensors")}
                if place != "base":
                    refused = self.run_to_its_end("compare", out, *options)
                    self.assertEqual(refused.returncode, 1)
                    self.assertIn(": holds a result or checkpoints of an earlier comparison; give --resume", refused.stderr)
                result = self.run_to_its_end("compare", out, *options, "--resume")
                self.assertGood(result)
                self.assertEqual(result.stderr.count("complete already: "), len(complete))
                self.assertEqual({file: file.stat().st_mtime_ns for file in models}, models)  # not trained again
                assertWhole(out)
        result = self.run_to_its_end("compare", out, *options, "--resume")  # all is there
        self.assertGood(result)
        self.assertEqual(result.stderr.count("complete already: "), 3)
        assertWhole(out)

        early = self.folder / "early"
        messages = self.folder / "early.txt"
        with messages.open("w") as stream:
            process = self.start("compare", early, *options, fault="fsync nap base/.result.json 0 1", stderr=stream)
        self.wait_for(process, lambda: list(early.glob("base/.result.json.*")))
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=120), 0)
        self.assertIn("stopped before the first setting: there is no report yet", messages.read_text())
        self.assertNotIn("report.html", messages.read_text())

        stopped = self.folder / "stopped"
        process = self.start("compare", stopped, *options, fault="fsync nap small/checkpoints/.step-000000003 0 1")
        self.wait_for(process, lambda: list(stopped.glob("small/checkpoints/.step-000000003.tmp")))
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=120), 0)
        self.assertFalse((stopped / "small/result.json").exists())
        self.assertFalse((stopped / "all").exists())
        for change, message in (([*options[:-4], "--setting", "Small = --rank 4", *options[-2:]], '--rank is "4" and was "2"'), ([*options, "--optimizer", "lion"], '--optimizer is "lion" and was ""'),
                                ([*options, "--seed", 3], 'seed is "3" and was "0"'), ([*options, "--start-token", "<|endoftext|>"], "checksum of tasks and held-out pages is")):
            refused = self.run_to_its_end("compare", stopped, *change, "--resume")
            self.assertEqual(refused.returncode, 1)
            self.assertIn(message, refused.stderr)
        self.assertGood(self.run_to_its_end("compare", stopped, *options, "--resume"))
        assertWhole(stopped)

    def test_the_best_weights_that_could_not_be_written_are_written_when_the_run_goes_on(self):
        options, lr = ("--rank", 4, "--eval-steps", 2, "--held-out", 0.2, "--keep-best", "--max-steps", 8), "1e-3"
        whole, out = self.folder / "whole", self.folder / "out"
        self.assertGood(self.run_to_its_end("train", whole, *options, lr=lr))
        self.assertEqual(json.loads((whole / "best/evaluation.json").read_text())["step"], 8)
        process = self.start("train", out, *options, lr=lr, fault="rename ENOSPC best/adapter/adapter_model.safetensors 3 1", stderr=subprocess.PIPE)
        self.assertIn("best weights cannot be written, the run stops", process.communicate()[1].decode())
        self.assertEqual((process.returncode, json.loads((out / "best/evaluation.json").read_text())["step"]), (1, 6))
        result = self.run_to_its_end("train", out, *options, "--resume", lr=lr)
        self.assertGood(result)
        self.assertIn(f"after step 8, in {out}/best", result.stderr)
        for file in ("evaluations.jsonl", "best/evaluation.json", "best/adapter/adapter_model.safetensors"):
            self.assertEqual((out / file).read_bytes(), (whole / file).read_bytes(), file)
        self.assertEqual(scalars(out), scalars(whole))

    def test_many_signals_in_the_midst_of_products_do_no_harm(self):
        """A handler on the stack of the thread that computes would write over what oneDNN keeps below it, in fp32. Signals within half a second are one."""
        out = self.folder / "out"
        self.write_pages([f"Page {i} tells how dpkg unpacks package {i * i}. " * 400 for i in range(20)])
        command = self.command("train", out, "--rank", 4, "--micro-batch-size", 16, "--max-steps", 1000)
        for option, value in (("--max-length", "1024"), ("--batch-size", "16")):
            command[command.index(option) + 1] = value
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        self.wait_for(process, lambda: self.steps(out) >= 2)
        begun = time.monotonic()
        while process.poll() is None and time.monotonic() < begun + 0.4:
            process.send_signal(signal.SIGTERM)
        messages = process.communicate()[1].decode()
        self.assertEqual(process.returncode, 0, messages)
        self.assertIn("checkpoint: ", messages)
        self.assertTrue((out / "adapter/adapter_model.safetensors").exists())
        blocked = 1 << signal.SIGINT - 1 | 1 << signal.SIGTERM - 1
        process = self.start("train", self.folder / "other", "--rank", 4, "--max-steps", 1000)
        self.wait_for(process, lambda: self.steps(self.folder / "other") >= 1)
        held = []
        for thread in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
            status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines() if ":\t" in line)
            self.assertEqual(int(status["SigCgt"], 16) & blocked, 0)  # no handler
            held.append(int(status["SigBlk"], 16) & blocked)
        self.assertEqual(sorted(held), [0] + [blocked] * (len(held) - 1))  # all but the thread that waits for them

    def test_a_second_signal_ends_a_run_whose_messages_nobody_reads(self):
        out = self.folder / "out"
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        process = self.start("train", out, "--max-steps", 100000, stderr=writer)
        self.wait_for(process, lambda: self.steps(out) >= 2)
        os.set_blocking(writer, False)
        with self.assertRaises(BlockingIOError):
            while True:
                os.write(writer, b"." * 512)
        os.set_blocking(writer, True)
        os.close(writer)
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=30), 130)

    def test_bos_before_documents_may_not_change_while_a_run_is_stopped(self):
        (self.model / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "add_bos_token": True}))
        out = self.folder / "out"
        self.assertGood(self.run_to_its_end("train", out, "--rank", 2, "--max-steps", 1))
        (checkpoint,) = (out / "checkpoints").glob("step-*/checkpoint.json")
        self.assertNotIn("bos", checkpoint.read_text().lower())  # as runs of before the option
        refused = self.run_to_its_end("train", out, "--rank", 2, "--max-steps", 2, "--resume", "--no-bos")
        self.assertEqual(refused.returncode, 1)
        self.assertIn('--resume: --bos is "no" and was ""', refused.stderr)
        self.assertGood(self.run_to_its_end("train", out, "--rank", 2, "--max-steps", 2, "--resume", "--bos"))

    def test_a_complete_setting_of_a_comparison_is_not_trained_over(self):
        compared = self.folder / "compared"
        self.assertGood(self.run_to_its_end("compare", compared, "--max-steps", 2, "--setting", "small = --rank 2"))
        before = {file: (compared / "small" / file).read_bytes() for file in ("log.jsonl", "adapter/adapter_model.safetensors")}
        for resume in ((), ("--resume",)):
            refused = self.run_to_its_end("train", compared / "small", "--rank", 2, "--max-steps", 3, *resume)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("small: is a complete setting of a comparison", refused.stderr)
        self.assertEqual(before, {file: (compared / "small" / file).read_bytes() for file in before})

    def test_a_comparison_goes_on_with_fewer_metrics_while_training_and_keeps_its_best_weights(self):
        """The sentence is learned before the run is stopped: no later evaluation is better."""
        cloze, out = self.folder / "cloze.jsonl", self.folder / "out"
        cloze.write_text(json.dumps({"id": "c", "sentence": "Page 3 tells how {word} unpacks package 9.", "answer": "dpkg", "candidates": ["dpkg", "rpm", "a cook", "the onion", "it", "butter"]}) + "\n")
        options = ("--cloze", cloze, "--held-out", 0.3, "--eval-steps", 2, "--keep-best=logp_mrr", "--setting", "a = --rank 4")
        process = self.start("compare", out, *options, "--eval-metrics", "perplexity,logp_mrr", "--max-steps", 400, lr="1e-2")
        best = out / "a/best/evaluation.json"
        self.wait_for(process, lambda: best.exists() and json.loads(best.read_text())["logp_mrr"] == 1 and self.steps(out / "a") > json.loads(best.read_text())["step"] + 4)
        process.send_signal(signal.SIGINT)
        process.communicate()
        self.assertEqual(process.returncode, 0)
        before, done = best.read_text(), self.steps(out / "a")
        self.assertLess(done, 400)
        self.assertGood(self.run_to_its_end("compare", out, *options, "--eval-metrics", "logp_mrr", "--max-steps", 400, "--resume", lr="1e-2"))
        self.assertEqual(best.read_text(), before)
        curve, = json.loads((out / "report.html").read_text().split('id="curve-data">')[1].split("</script>")[0])
        self.assertEqual(curve["eval/logp_mrr"]["step"], list(range(0, 401, 2)))
        measured = [line["step"] for line in map(json.loads, (out / "a/evaluations.jsonl").read_text().splitlines()) if "perplexity" in line]
        self.assertIn(measured[-1], (done, done - 1, done - 2))
        self.assertEqual(curve["eval/perplexity"]["step"], [0, *measured, 400])

    def test_questions_and_terms_are_measured_while_training_and_the_best_weights_kept_by_them(self):
        """The sentence is of the field that is learned; what is measured after a step is what `dapt eval` says of the adapter of that step."""
        cloze, qa = self.folder / "cloze.jsonl", self.folder / "qa.jsonl"
        cloze.write_text(json.dumps({"id": "c", "sentence": "Page 3 tells how {word} unpacks package 9.", "answer": "dpkg", "candidates": ["dpkg", "rpm", "a cook", "the onion", "it", "butter"]}) + "\n")
        qa.write_text("".join(json.dumps({"id": str(i), "question": "Who unpacks?", "answers": [answer]}) + "\n" for i, answer in enumerate(("dpkg", "rpm"))))
        tasks = ("--cloze", cloze, "--qa", qa, "--max-new-tokens", 4)
        options = (*tasks, "--rank", 4, "--checkpoint-steps", 4, "--eval-steps", 2, "--eval-metrics", "logp_mrr,qa_exact", "--keep-best=logp_mrr", "--max-steps", 12)
        whole, out, lr = self.folder / "whole", self.folder / "out", "1e-2"
        result = self.run_to_its_end("train", whole, *options, lr=lr)
        self.assertGood(result)
        lines = [json.loads(line) for line in (whole / "evaluations.jsonl").read_text().splitlines()]
        self.assertEqual([(line["step"], sorted(line)) for line in lines], [(step, ["checksums", "logp_mrr", "qa_exact", "step"]) for step in range(2, 13, 2)])
        best = max(lines, key=lambda line: line["logp_mrr"])  # the first of equals
        self.assertEqual(json.loads((whole / "best/evaluation.json").read_text()), best)
        self.assertIn(f"best logp_mrr while training: {best['logp_mrr']:g} after step {best['step']}, in {whole}/best", result.stderr)
        self.assertEqual({tag for _, tag, _ in scalars(whole) if tag.startswith("eval/")}, {"eval/logp_mrr", "eval/qa_exact"})

        results = self.folder / "results.json"
        self.assertGood(subprocess.run(list(map(str, [program, "eval", "--model", self.model, "--peft", whole / "best/adapter", *tasks, "--dtype", "fp32", "--threads", 1, "--out", results])), capture_output=True, text=True))
        base, adapted = json.loads(results.read_text())
        if "best" not in adapted["model"]:
            base, adapted = adapted, base
        self.assertEqual((adapted["logp_mrr"], adapted["qa_exact"]), (best["logp_mrr"], best["qa_exact"]))
        self.assertGreater(adapted["logp_mrr"], base["logp_mrr"])

        process = self.start("train", out, *options, lr=lr)
        self.wait_for(process, lambda: self.steps(out) >= 7)
        process.kill()
        process.wait()
        self.assertGood(self.run_to_its_end("train", out, *options, "--resume", lr=lr))
        for file in ("evaluations.jsonl", "best/evaluation.json", "best/adapter/adapter_model.safetensors"):
            self.assertEqual((out / file).read_bytes(), (whole / file).read_bytes(), file)

    def test_evaluations_while_training_and_the_best_weights_are_those_of_a_run_that_was_not_killed(self):
        options = ("--max-steps", 40, "--checkpoint-steps", 5, "--rank", 4, "--eval-steps", 3, "--held-out", 0.2, "--keep-best")
        whole, out, plain = self.folder / "whole", self.folder / "out", self.folder / "plain"
        lr = "1e-2"
        self.write_pages_of_two_fields()
        result = self.run_to_its_end("train", whole, *options, lr=lr)
        self.assertGood(result)
        lines = [json.loads(line) for line in (whole / "evaluations.jsonl").read_text().splitlines()]
        self.assertEqual([line["step"] for line in lines], list(range(3, 41, 3)))
        best = min(lines, key=lambda line: line["perplexity"])
        self.assertLess(best["step"], 39)
        self.assertEqual(json.loads((whole / "best/evaluation.json").read_text()), best)
        self.assertIn("best perplexity while training: ", result.stderr)
        self.assertEqual([(step, value) for step, tag, value in scalars(whole) if tag == "eval/perplexity"],
                         [(line["step"], struct.unpack("<f", struct.pack("<f", line["perplexity"]))[0]) for line in lines])

        # `dapt eval` of the best adapter on the same pages has the same perplexity
        held_out = self.folder / "held_out.jsonl"
        held_out.write_text("".join(line for line in self.pages.read_text().splitlines(True) if is_held_out("w", json.loads(line)["page"], 0.2)))
        results = self.folder / "results.json"
        evaluated = subprocess.run(list(map(str, [program, "eval", "--model", self.model, "--peft", whole / "best/adapter", "--pages", held_out, "--max-length", 64, "--dtype", "fp32", "--threads", 1,
                                                  "--out", results])), capture_output=True, text=True)
        self.assertGood(evaluated)
        adapted = [entry for entry in json.loads(results.read_text()) if "best" in entry["model"]][0]
        self.assertAlmostEqual(adapted["perplexity"], best["perplexity"], delta=1e-4 * best["perplexity"])

        process = self.start("train", out, *options, lr=lr)
        self.wait_for(process, lambda: self.steps(out) >= best["step"] + 1)
        process.kill()
        process.wait()
        self.assertGood(self.run_to_its_end("train", out, *options, "--resume", lr=lr))
        for file in ("evaluations.jsonl", "best/evaluation.json", "best/adapter/adapter_model.safetensors", "adapter/adapter_model.safetensors"):
            self.assertEqual((out / file).read_bytes(), (whole / file).read_bytes(), file)
        self.assertEqual(scalars(out), scalars(whole))

        # what is incomplete or damaged is said, and costs no more than itself
        newest, half_written = sorted((out / "checkpoints").glob("step-*"))[-1], out / "checkpoints/.step-000000099.tmp"
        (newest / "checkpoint.json").unlink()
        half_written.mkdir()
        kept = (out / "evaluations.jsonl").read_text().splitlines(True)
        (out / "evaluations.jsonl").write_text("".join([kept[0], "{" + kept[1], *kept[2:]]))
        result = self.run_to_its_end("train", out, *options, "--resume", lr=lr)
        self.assertGood(result)
        for incomplete in (newest, half_written):
            self.assertIn(f"checkpoint left out: {incomplete} is incomplete", result.stderr)
        self.assertIn(f"{out}/evaluations.jsonl: 1 lines are no evaluations and were left out", result.stderr)
        self.assertEqual((out / "evaluations.jsonl").read_text(), "".join([kept[0], *kept[2:]]))
        self.assertEqual((out / "adapter/adapter_model.safetensors").read_bytes(), (whole / "adapter/adapter_model.safetensors").read_bytes())
        self.assertIn("--keep-best", self.run_to_its_end("train", plain, "--max-steps", 1, "--keep-best").stderr)
        refused = self.run_to_its_end("train", plain, "--max-steps", 1, "--held-out", 0.2)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("--held-out has no effect without --eval-steps", refused.stderr)

    def test_scores_of_a_language_model_are_kept_by_a_run_that_is_stopped_while_it_scores(self):
        general = self.folder / "general"
        general.mkdir()
        write_model(general, source, seed=2)
        self.write_pages([f"Page {i} tells how dpkg unpacks package {i * i}. " * 4 for i in range(1200)])
        options = ("--scorer", "lm", "--domain-model", self.model, "--general-model", general, "--min-score", -1000, "--duplicates", "off", "--rank", 4, "--max-steps")
        whole, out = self.folder / "whole", self.folder / "out"
        self.assertGood(self.run_to_its_end("train", whole, *options, 2))
        partial = out / ".scores.jsonl.partial"
        process = self.start("train", out, *options, 2, stderr=subprocess.PIPE, text=True)
        self.wait_for(process, lambda: partial.exists() and partial.read_bytes().count(b"\n") > 256)
        process.send_signal(signal.SIGTERM)
        messages = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 1, messages)
        self.assertIn("the same command goes on from there", messages)
        resumed = self.run_to_its_end("train", out, *options, 2)
        self.assertGood(resumed)
        self.assertIn("pages are those of a run that was stopped", resumed.stderr)
        for file in ("scores.jsonl", "adapter/adapter_model.safetensors"):
            self.assertEqual((out / file).read_bytes(), (whole / file).read_bytes(), file)
        scored_at = (out / "scores.jsonl").stat().st_mtime_ns
        longer = self.run_to_its_end("train", out, *options, 3, "--resume")
        self.assertGood(longer)
        self.assertIn(f"the scores are those of the earlier run ({out / 'scores.jsonl'})", longer.stderr)
        self.assertEqual((out / "scores.jsonl").stat().st_mtime_ns, scored_at)

    def test_an_evaluation_while_training_that_is_stopped_is_made_up_for(self):
        options = ("--max-steps", 2, "--rank", 4, "--eval-steps", 1, "--held-out", 0.9, "--keep-best", "--checkpoint-steps", 1)
        whole, out = self.folder / "whole", self.folder / "out"
        self.write_pages([f"Page {i} tells how dpkg unpacks package {i * i}. " * 200 for i in range(60)])  # an evaluation takes seconds
        self.assertGood(self.run_to_its_end("train", whole, *options))
        for resumed in ([], ["--resume"]):  # stopped after the first step, and after the second: each time while it is evaluated
            process = self.start("train", out, *options, *resumed, stderr=subprocess.PIPE, text=True)
            steps = 2 if resumed else 1
            self.wait_for(process, lambda: self.steps(out) == steps)
            process.send_signal(signal.SIGTERM)
            messages = process.communicate(timeout=60)[1]
            self.assertEqual(process.returncode, 0, messages)
            self.assertIn("ended by: stop requested", messages)
            self.assertEqual(len((out / "evaluations.jsonl").read_text().splitlines()), steps - 1)
            self.assertTrue((out / f"checkpoints/step-{steps:09}").exists())
        self.assertGood(self.run_to_its_end("train", out, *options, "--resume"))
        for file in ("evaluations.jsonl", "best/evaluation.json", "best/adapter/adapter_model.safetensors", "adapter/adapter_model.safetensors"):
            self.assertEqual((out / file).read_bytes(), (whole / file).read_bytes(), file)
        self.assertEqual(self.log(out), self.log(whole))
        self.assertEqual(scalars(out), scalars(whole))

    def test_settings_that_would_share_a_folder_are_refused(self):
        result = self.run_to_its_end("compare", self.folder / "out", "--max-steps", 1, "--setting", "LoRA 8 = --rank 8", "--setting", "lora-8 = --rank 8 --lr 1e-3")
        self.assertEqual(result.returncode, 1)
        self.assertIn('"lora-8" and "LoRA 8" would share the folder', result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
