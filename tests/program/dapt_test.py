"""The dapt program from the outside: what it writes, what it refuses, and that a run can be repeated and interrupted.

usage: dapt_test.py SOURCE_DIR BUILD_DIR        the model folder is in DAPT_SMOLLM2
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

source, build = map(pathlib.Path, sys.argv[1:3])
program = build / "bin" / "dapt"
model = os.environ.get("DAPT_SMOLLM2") or sys.exit("DAPT_SMOLLM2 is not set; tests/run.sh sets it")
domain = source / "examples" / "debian"


def run(*arguments):
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


class Program(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.pages = self.folder / "pages.jsonl"
        texts = [f"Page {i} tells how dpkg unpacks package number {i} and how apt asks for its dependencies. " * 8 for i in range(12)]
        self.write_pages([{"work": "w", "page": i, "text": text, "score": i / 12} for i, text in enumerate(texts)])

    def write_pages(self, pages):
        self.pages.write_text("".join(json.dumps(page) + "\n" for page in pages), encoding="utf-8")

    def train(self, out, *options):
        return run("train", "--model", model, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--out", out, *options)

    def assertRefused(self, result, *parts):
        self.assertNotEqual(result.returncode, 0, result.stderr)
        for part in parts:
            self.assertIn(part, result.stderr)

    def losses(self, out):
        return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]

    def test_train_writes_log_and_peft_adapter_and_repeats_bit_for_bit(self):
        for out in ("a", "b"):
            result = self.train(self.folder / out, "--rank", 4, "--max-steps", 3, "--lr", "1e-3")
            self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout + result.stderr, r'first border of documents: "[^"]*dependencies. " \[0\] "Page \d+ tells how')
        a, b = self.folder / "a", self.folder / "b"
        self.assertEqual(len(self.losses(a)), 3)
        self.assertEqual(self.losses(a), self.losses(b))
        weights = "adapter/adapter_model.safetensors"
        self.assertEqual((a / weights).read_bytes(), (b / weights).read_bytes())
        config = json.loads((a / "adapter/adapter_config.json").read_text())
        self.assertEqual((config["peft_type"], config["r"]), ("LORA", 4))
        self.assertTrue(list(a.glob("events.out.tfevents.*")))
        record = json.loads((a / "log.jsonl").read_text().splitlines()[0])
        for key in ("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "peak_memory_bytes", "phase_seconds"):
            self.assertIn(key, record)

    def test_full_parameter_training_writes_a_folder_that_eval_opens(self):
        out = self.folder / "full"
        result = self.train(out, "--adapter", "full", "--max-steps", 1)
        self.assertEqual(result.returncode, 0, result.stderr)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            self.assertTrue((out / "model" / name).exists(), name)
        results = self.folder / "results.json"
        cloze = self.folder / "cloze.jsonl"
        cloze.write_text("".join(open(domain / "cloze.jsonl", encoding="utf-8").readlines()[:2]), encoding="utf-8")
        result = run("eval", "--model", model, "--model", out / "model", "--cloze", cloze, "--out", results)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([len(entry["cloze"]) for entry in json.loads(results.read_text())], [2, 2])

    def test_eval_asks_in_the_layout_that_is_given_and_says_so(self):
        qa, results = self.folder / "qa.jsonl", self.folder / "results.json"
        qa.write_text(open(domain / "qa.jsonl", encoding="utf-8").readline(), encoding="utf-8")
        asked = ("eval", "--model", model, "--qa", qa, "--fewshot", domain / "fewshot.jsonl")
        result = run(*asked, "--exemplar-layout", r"Q: {question}\nA:{answer}\n", "--question-layout", r"Q: {question}\nA:", "--stop", r"\n", "--stop", "。", "--normalisation",
                     "nfkc,strip,remove_japanese_punctuation", "--one-by-one", "--out", results)
        self.assertEqual(result.returncode, 0, result.stderr)
        settings = json.loads(results.read_text())["settings"]["qa_exact"]
        self.assertEqual((settings["prompt"], settings["stop"], settings["normalisation"]),
                         ("Q: {question}\nA:{answer}\nQ: {question}\nA:", '["\\n","。"]', "nfkc,strip,remove_japanese_punctuation"))
        self.assertRefused(run(*asked, "--stop", r"\x"), "expected n, t or")
        self.assertRefused(run("eval", "--model", model, "--cloze", domain / "cloze.jsonl", "--stop", "x"), "no effect without --qa")

    def test_ctrl_c_saves_what_was_reached(self):
        out = self.folder / "stopped"
        command = [program, "train", "--model", model, "--pages", self.pages, "--max-length", "64", "--batch-size", "2", "--max-steps", "100000", "--out", out]
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
        for _ in range(1200):
            if (out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_size > 0:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, messages)
        self.assertIn("stop requested", messages)
        self.assertTrue((out / "adapter/adapter_model.safetensors").exists())

    def test_a_run_that_was_stopped_or_killed_goes_on_and_is_the_one_that_was_not(self):
        options = ["--rank", 4, "--lr", "1e-3", "--max-steps", 12, "--checkpoint-steps", 1]
        whole = self.folder / "whole"
        self.assertEqual(self.train(whole, *options).returncode, 0)
        facts = lambda out: [{key: line[key] for key in ("step", "tokens", "loss", "lr", "grad_norm", "fraction")} for line in map(json.loads, (out / "log.jsonl").read_text().splitlines())]
        for number in (signal.SIGINT, signal.SIGKILL):
            out = self.folder / number.name
            command = ["train", "--model", model, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--out", out, *options]
            process = subprocess.Popen([program, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            log = out / "log.jsonl"
            while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 3):
                time.sleep(0.05)
            process.send_signal(number)
            process.wait()
            self.assertLess(len(facts(out)), 12, "the run ended before the signal came")
            self.assertRefused(self.train(out, *options), "holds checkpoints of an earlier run", "--resume")
            self.assertRefused(self.train(out, *options, "--resume", "--seed", 9), "seed is", "9", "--allow-changes")
            self.assertRefused(self.train(out, *options, "--resume", "--weight-decay", "0.1"), "the checkpoint is of another setting: optimizer is")
            result = self.train(out, *options, "--resume")
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("resumed from: ", result.stderr)
            self.assertEqual(facts(out), facts(whole))
            weights = "adapter/adapter_model.safetensors"
            self.assertEqual((out / weights).read_bytes(), (whole / weights).read_bytes())
            newest = sorted((out / "checkpoints").glob("step-*"))[-1]
            self.assertEqual(newest.name, "step-000000012")
            state = newest / "state.safetensors"
            state.write_bytes(state.read_bytes()[:-1])  # the newest is damaged: the one before it is taken, and that is said
            result = self.train(out, *options, "--resume")
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("checkpoint left out: ", result.stderr)
            self.assertEqual((out / weights).read_bytes(), (whole / weights).read_bytes())

    def test_filter_keeps_by_score_and_says_what(self):
        kept = self.folder / "kept.jsonl"
        result = run("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 0.5, "--model", model, "--out", kept)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([json.loads(line)["page"] for line in kept.read_text().splitlines()], [6, 7, 8, 9, 10, 11])
        self.assertIn("kept    6 pages", result.stderr)

    def test_tokenize_gives_the_ids_of_each_page(self):
        self.write_pages([{"work": "w", "page": 1, "text": "Hello world"}])
        result = run("tokenize", "--model", model, "--pages", self.pages)
        self.assertEqual(json.loads(result.stdout), {"work": "w", "page": 1, "ids": [19556, 905]})  # of HF tokenizers 0.23, encode("Hello world")

    def test_tokenize_packed_gives_the_sequences_that_training_reads(self):
        self.write_pages([{"work": "w", "page": 1, "text": "Hello world"}])
        result = run("tokenize", "--model", model, "--pages", self.pages, "--packed", "--max-length", 5)
        found = json.loads(result.stdout)
        # the page's two ids and the end-of-document token, 0; each label is the id that follows
        self.assertEqual((found["ids"][:3], found["labels"]), ([19556, 905, 0], [905, 0, -100, -100, -100]))
        self.assertRefused(run("tokenize", "--model", model, "--pages", self.pages, "--max-length", 5), "--packed")

    def test_toml_file_holds_options_and_flags_win(self):
        config = self.folder / "run.toml"
        config.write_text('[train]\nrank = 2\nmax-steps = 1\nlr = 1e-3\ntargets = [\n  "q_proj",\n  "v_proj",\n]\n')
        out = self.folder / "toml"
        result = self.train(out, "--config", config, "--rank", 3)
        self.assertEqual(result.returncode, 0, result.stderr)
        adapter = json.loads((out / "adapter/adapter_config.json").read_text())
        self.assertEqual((adapter["r"], sorted(adapter["target_modules"])), (3, ["q_proj", "v_proj"]))
        self.assertEqual(json.loads((out / "log.jsonl").read_text())["lr"], 1e-3)

    def test_a_broken_toml_file_is_refused_with_its_line(self):
        config = self.folder / "run.toml"
        config.write_text("[train]\nrank = 2\nlr = \n")
        self.assertRefused(self.train(self.folder / "out", "--config", config, "--max-steps", 1), "line 3")

    def test_compare_writes_the_report_also_for_a_setting_that_names_its_own_options(self):
        cloze = self.folder / "cloze.jsonl"
        cloze.write_text("".join(open(domain / "cloze.jsonl", encoding="utf-8").readlines()[:2]), encoding="utf-8")
        out = self.folder / "compared"
        result = run("compare", "--model", model, "--pages", self.pages, "--cloze", cloze, "--max-length", 64, "--batch-size", 1, "--max-steps", 1, "--out", out,
                     "--setting", "small = --rank 2 --lr 1e-3", "--setting", "GaLore = --adapter full --optimizer galore-adamw --galore-rank 4 --projector randomized",
                     "--setting", "Lion = --adapter full --optimizer lion --state-dtype 8bit --weight-write kahan --lr 1e-5",
                     "--setting", "APOLLO = --adapter full --optimizer apollo-mini", "--setting", "Adafactor = --rank 2 --optimizer adafactor")
        self.assertEqual(result.returncode, 0, result.stderr)
        for name in ("report.html", "report.md", "settings.csv", "steps.csv", "questions.csv"):
            self.assertTrue((out / name).exists(), name)
        self.assertIn("GaLore", (out / "report.md").read_text())

    def test_bad_input_is_refused_with_its_place(self):
        cases = [
            ('{"work": "w", "page": 1, "text": 5}\n', "pages.jsonl:1"),
            ('{"work": "w", "page": 1, "text": "good"}\nno json\n', "pages.jsonl:2"),
            ('{"work": "w", "page": 1, "text": "   "}\n', "no page with text"),
        ]
        for content, message in cases:
            with self.subTest(message):
                self.pages.write_text(content)
                self.assertRefused(self.train(self.folder / "out", "--max-steps", 1), message)
        self.pages.write_bytes(b'{"work": "w", "page": 1, "text": "\xff"}\n')
        self.assertRefused(self.train(self.folder / "out", "--max-steps", 1), "pages.jsonl:1")
        self.pages.unlink()
        self.assertRefused(self.train(self.folder / "out", "--max-steps", 1), str(self.pages))

    def test_no_page_after_the_filter_is_an_error(self):
        self.assertRefused(run("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 2), "none of 12 pages")

    def test_unwritable_output_is_refused_before_anything_is_trained(self):
        (self.folder / "file").write_text("")
        self.assertRefused(self.train(self.folder / "file" / "out", "--max-steps", 1), "file/out")

    def test_options_without_effect_are_refused(self):
        for options, message in [
            (("--adapter", "full", "--rank", 4, "--max-steps", 1), "--rank has no effect"),
            (("--galore-rank", 4, "--max-steps", 1), "--galore-rank has no effect"),
            (("--optimizer", "galore-adamw", "--max-steps", 1), "--adapter full"),
            (("--optimizer", "apollo", "--max-steps", 1), "--adapter full"),
            (("--optimizer", "lion", "--eps", 1e-6, "--max-steps", 1), "--eps has no effect"),
            (("--optimizer", "adafactor", "--beta2", 0.9, "--max-steps", 1), "--beta2 has no effect"),
            (("--optimizer", "adafactor", "--state-dtype", "8bit", "--max-steps", 1), "--state-dtype has no effect"),
            (("--apollo-rank", 4, "--max-steps", 1), "--apollo-rank has no effect"),
            (("--weight-write", "plain", "--max-steps", 1), "--weight-write has no effect"),
            (("--warmup", 0.1, "--max-steps", 1), "--warmup has no effect"),
            ((), "no budget"),
            (("--min-score", 0.5, "--max-steps", 1), "--min-score has no effect"),
        ]:
            with self.subTest(message):
                self.assertRefused(self.train(self.folder / "out", *options), message)

    def test_a_truncated_model_is_refused_by_name(self):
        folder = self.folder / "model"
        folder.mkdir()
        for file in pathlib.Path(model).iterdir():
            if file.name != "model.safetensors":
                (folder / file.name).symlink_to(file.resolve())
        whole = (pathlib.Path(model) / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-1])
        result = run("train", "--model", folder, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--max-steps", 1, "--out", self.folder / "out")
        self.assertRefused(result, "model.safetensors")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
