"""dapt compare: the report, what cannot be compared, and evaluations while its settings train.

usage: compare_test.py SOURCE_DIR BUILD_DIR        the model folder is in DAPT_SMOLLM2
"""
import csv
import json
import os
import pty
import re
import subprocess
import sys
import unittest

from program_case import ProgramTest, domain, model, program, run, source
from tiny_model import write_model


class Compare(ProgramTest):
    def test_questions_of_a_pipe_are_scored_and_refused_where_they_are_needed_twice(self):
        base = self.folder / "base"
        base.mkdir()
        write_model(base, source)
        def run_with(*command):
            return subprocess.run([program, *map(str, command), "--model", base, "--qa", "/dev/stdin", "--dtype", "fp32"], input='{"id": "1", "question": "Which program unpacks?", "answers": ["dpkg"]}\n', capture_output=True, text=True)
        result = run_with("compare", "--pages", self.pages, "--max-steps", 1, "--out", self.folder / "out")
        self.assertRefused(result, "--qa: /dev/stdin is no file or folder, and it is read twice: to be searched for in the pages, and to score by; write it to a file")
        self.assertFalse((self.folder / "out").exists())
        self.assertEqual(run_with("eval").returncode, 0)

    def test_a_question_and_a_sentence_of_one_id_have_their_own_groups_in_the_report(self):
        base, qa, cloze, out = (self.folder / name for name in ("base", "qa.jsonl", "cloze.jsonl", "out"))
        base.mkdir()
        write_model(base, source)
        qa.write_text('{"id": "a", "question": "Which program unpacks?", "answers": ["dpkg"], "group": "easy"}\n{"id": "b", "question": "Which asks?", "answers": ["apt"]}\n')
        cloze.write_text('{"id": "a", "sentence": "{word} unpacks.", "answer": "dpkg", "candidates": ["dpkg", "apt"], "group": "hard"}\n')
        result = run("compare", "--model", base, "--pages", self.pages, "--qa", qa, "--cloze", cloze, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--max-steps", 1,
                     "--held-out", 0.1, "--out", out, "--setting", "small = --adapter lora --rank 2")
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(out / "questions.csv", newline="") as file:
            rows = {(row["metric"], row["id"]): row["group"] for row in csv.DictReader(file) if row["setting"] == "small"}
        self.assertEqual(rows, {("qa_exact", "a"): "easy", ("qa_exact", "b"): "", ("logp_mrr", "a"): "hard"})

    def test_evaluations_while_training_begin_with_the_token_that_the_report_s_begin_with(self):
        base, out = self.folder / "base", self.folder / "out"
        base.mkdir()
        write_model(base, source)
        common = ("--model", base, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--held-out", 0.3, "--lr", "1e-2", "--max-steps", 4)
        result = run("compare", *common, "--start-token", "Ġthe", "--eval-steps", 4, "--out", out, "--setting", "高ランク = --rank 8", "--setting", "低ランク = --rank 2")
        self.assertEqual(result.returncode, 0, result.stderr)
        for setting in ("高ランク", "低ランク"):
            (last,) = map(json.loads, (out / setting / "evaluations.jsonl").read_text().splitlines())
            (metric,) = json.loads((out / setting / "result.json").read_text())["metrics"]
            self.assertEqual(last["perplexity"], metric["value"], setting)
        (base / "tokenizer_config.json").write_text("{}")
        (base / "tokenizer.json").write_text((base / "tokenizer.json").read_text().replace("<|endoftext|>", "<unused>"))
        self.assertRefused(run("train", *common, "--no-eos", "--eval-steps", 4, "--out", self.folder / "no"), "start token: the tokenizer adds no BOS and has no end-of-document token")
        self.assertFalse((self.folder / "no/log.jsonl").exists())
        self.assertEqual(run("train", *common, "--no-eos", "--eval-steps", 4, "--start-token", "Ġthe", "--out", self.folder / "yes").returncode, 0)

    def test_compare_writes_the_report_also_for_a_setting_that_names_its_own_options(self):
        cloze = self.folder / "cloze.jsonl"
        cloze.write_text("".join((domain / "cloze.jsonl").read_text(encoding="utf-8").splitlines(True)[:2]), encoding="utf-8")
        out = self.folder / "compared"
        result = run("compare", "--model", model, "--pages", self.pages, "--cloze", cloze, "--max-length", 64, "--batch-size", 1, "--max-steps", 1, "--out", out,
                     "--setting", "small = --rank 2 --lr 1e-3", "--setting", "GaLore = --adapter full --optimizer galore-adamw --galore-rank 4 --projector randomized",
                     "--setting", "Lion = --adapter full --optimizer lion --state-dtype 8bit --weight-write kahan --lr 1e-5",
                     "--setting", "APOLLO = --adapter full --optimizer apollo-mini", "--setting", "Adafactor = --rank 2 --optimizer adafactor")
        self.assertEqual(result.returncode, 0, result.stderr)
        for name in ("report.html", "report.md", "settings.csv", "steps.csv", "questions.csv"):
            self.assertTrue((out / name).exists(), name)
        self.assertIn("GaLore", (out / "report.md").read_text())
        with open(out / "settings.csv", newline="") as file:
            peak = {row["setting"]: int(row["peak_memory_bytes"]) for row in csv.DictReader(file) if row["setting"] != "base"}
        self.assertGreater(peak["APOLLO"], 1.5 * peak["small"])
        self.assertLess(peak["Adafactor"], 1.1 * peak["small"])  # not what the allocator kept of all parameters' training before it

    def test_evaluations_while_training_have_a_line_of_their_own_on_a_terminal_and_faults_of_questions_are_told_once(self):
        base, qa = self.folder / "base", self.folder / "qa.jsonl"
        base.mkdir()
        write_model(base, source)
        qa.write_text(json.dumps({"id": "1", "question": "Which is the longest?", "answers": ["one that has many more tokens than are generated for it here"]}) + "\n")
        words = ("compare", "--model", base, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--max-steps", 2, "--held-out", 0.3, "--qa", qa, "--max-new-tokens", 3,
                 "--eval-steps", 1, "--eval-metrics", "qa_exact,perplexity", "--setting", "small = --rank 2")
        fault = "1 of 1 questions accept only answers longer than 3 tokens"
        result = run(*words, "--out", self.folder / "file")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual((result.stderr.count(fault), result.stderr.count("small, evaluation")), (1, 0), result.stderr)

        screen, keyboard = pty.openpty()
        process = subprocess.Popen([program, *map(str, words), "--out", self.folder / "screen"], stdout=subprocess.DEVNULL, stderr=keyboard)
        self.addCleanup(process.kill)
        os.close(keyboard)
        messages = ""
        with open(screen, "rb", buffering=0) as lines:
            try:
                while True:
                    messages += lines.read(2**16).decode(errors="replace")
            except OSError:  # nobody writes any more
                pass
        self.assertEqual(process.wait(timeout=60), 0, messages)
        self.assertEqual(messages.count(fault), 1, messages)
        shown = re.findall(r"small(?:, evaluation after step \d  [02] of 2|  \d+ %  step \d)", messages)
        self.assertEqual(shown[:6], ["small  50 %  step 1", "small, evaluation after step 1  0 of 2", "small, evaluation after step 1  2 of 2", "small  100 %  step 2", "small, evaluation after step 2  0 of 2",
                                     "small, evaluation after step 2  2 of 2"], messages)

    def test_what_cannot_be_compared_is_refused_before_anything_is_scored(self):
        base, out = self.folder / "base", self.folder / "out"
        base.mkdir()
        write_model(base, source)
        compared = ("compare", "--model", base, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--out", out, "--max-steps", 2)
        small, full = ("--setting", "small = --rank 4 --optimizer lion"), ("--setting", "full = --adapter full --optimizer lion")
        for options, message in [((*small, "--setting", "longer = --max-steps 3"), 'setting "longer" has max_steps 3, the first setting has 2'),
                                 ((*small, *full, "--rank", 16), "--rank has no effect outside the settings"),
                                 ((*small, *full, "--warmup", 0.5), "--warmup has no effect outside the settings"),
                                 ((*small, *full, "--eps", 1e-3), "--eps has no effect outside the settings"),
                                 ((*small, "--setting", "b = --targets q_prj"), 'setting "b": Lora: target "q_prj" ends the name of none'),
                                 ((*small, "--setting", "b = --weight-decay -1"), 'setting "b": AdamW: weight_decay is -1'),
                                 ((*small, "--setting", "b = --micro-batch-size 4"), 'setting "b": TrainOptions: batch_size is 2, expected a multiple of micro_batch_size 4'),
                                 ((*small, "--setting", "n" * 256 + " = --rank 4"), '" has 256 bytes, expected 255 at the most')]:
            with self.subTest(message):
                self.assertRefused(run(*compared, *options), message)
                self.assertFalse((out / "base").exists())
        early = ("--setting", "early = --adapter full --optimizer galore-adamw --galore-rank 8 --subspace-source first-micro-batch")
        self.assertRefused(run("launch", "-n", 2, "--", *compared, *small, *early), 'setting "early": --subspace-source first-micro-batch takes subspaces', "each of 2 processes has another")
        self.assertFalse((out / "base").exists())
        # Sequences of one forward pass may differ: each setting sees the same ones in each step.
        result = run(*compared, "--setting", "by one = --rank 4", "--setting", "by two = --rank 4 --micro-batch-size 2")
        self.assertEqual(result.returncode, 0, result.stderr)
        by_one, by_two = (self.losses(out / name) for name in ("by-one", "by-two"))
        for one, two in zip(by_one, by_two, strict=True):
            self.assertAlmostEqual(one, two, delta=1e-5 * one)

    def test_what_a_run_begins_with_is_not_written_over(self):
        base, out = self.folder / "whole/model", self.folder / "whole"
        base.mkdir(parents=True)
        write_model(base, source)
        self.assertRefused(self.train(out, "--adapter", "full", "--max-steps", 1, base=base), f"dapt: error: --model {base}: this run would write what it trained over it; give another --out")
        best, measured = ("--keep-best", "--eval-steps", 1), ("--held-out", 0.3)
        (out / "best").mkdir()
        base = base.rename(out / "best/model")
        self.assertRefused(self.train(out, "--adapter", "full", "--max-steps", 1, *best, *measured, base=base), f"--model {base}: this run would write")
        compared = ("compare", "--model", base, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--max-steps", 1, *measured)
        self.assertRefused(run(*compared, "--out", self.folder, "--setting", "small = --rank 2", "--setting", "whole = --adapter full", *best), f'setting "whole": --model {base}: this run would write')
        self.assertFalse((self.folder / "base").exists())

        one, one_and_two = ("--setting", "one = --rank 2"), ("--setting", "one = --rank 2", "--setting", f"two = --init-adapter {out}/one/adapter")
        result = run(*compared, "--out", out, *one)
        self.assertEqual(result.returncode, 0, result.stderr)
        adapter, bytes_before = out / "one/adapter", (out / "one/adapter/adapter_model.safetensors").read_bytes()
        self.assertRefused(self.train(out / "one", "--init-adapter", adapter, "--max-steps", 1, base=base), f"dapt: error: --init-adapter {adapter}: this run would write")
        self.assertEqual((adapter / "adapter_model.safetensors").read_bytes(), bytes_before)
        result = run(*compared, "--out", out, *one_and_two, "--resume")  # what is complete is not written again
        self.assertEqual(result.returncode, 0, result.stderr)
        (out / "one/result.json").unlink()
        self.assertRefused(run(*compared, "--out", out, *one_and_two, "--resume"), f'setting "one": --init-adapter {adapter}: this run would write')

        (out / "one/best").mkdir()
        adapter = adapter.rename(out / "one/best/adapter")
        self.assertRefused(self.train(out / "one", "--init-adapter", adapter, "--max-steps", 1, *best, *measured, base=base), f"--init-adapter {adapter}: this run would write")
        result = self.train(out / "one", "--init-adapter", adapter, "--max-steps", 1, base=base)  # which writes no best/
        self.assertEqual(result.returncode, 0, result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
