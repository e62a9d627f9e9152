"""Options of all commands: the TOML file, what has no effect, names in brackets, outputs in the place of inputs, and what the system refuses.

usage: options_test.py SOURCE_DIR BUILD_DIR        the model folder is in DAPT_SMOLLM2
"""
import json
import os
import subprocess
import sys
import unittest

from program_case import ProgramTest, model, program, run, source
from tiny_model import write_model


class Options(ProgramTest):
    def test_texts_and_names_in_brackets_stay_as_they_are(self):
        base, qa, results, config = self.folder / "[a,b]", self.folder / "qa.jsonl", self.folder / "results.json", self.folder / "run.toml"
        base.mkdir()
        write_model(base, source)
        qa.write_text(json.dumps({"id": "q", "question": "Which tool unpacks?", "answers": ["dpkg"]}) + "\n")
        stops, layout = ["[END]", "[a,b]", "[]", "%%", "{}"], "[INST] {question} [/INST]"
        asked = ("eval", "--qa", qa, "--dtype", "fp32", "--threads", 1, "--out", results)
        words = (*asked, "--model", "[a,b]", "--question-layout", layout, "--stop", stops[0], stops[1], *(word for stop in stops[2:] for word in ("--stop", stop)))
        config.write_text(f"[eval]\nmodel = '[a,b]'\nquestion-layout = '{layout}'\nstop = {stops}\n")
        for command in (words, ("launch", "-n", 1, "--", *words), (*asked, "--config", config)):
            with self.subTest(command[0] if command != words else "words"):
                results.unlink(missing_ok=True)
                result = subprocess.run([program, *map(str, command)], capture_output=True, text=True, cwd=self.folder)
                self.assertEqual(result.returncode, 0, result.stderr)
                found = json.loads(results.read_text())
                self.assertEqual((found["model"], found["settings"]["qa_exact"]["prompt"].split("\n")[-1]), ("[a,b]", layout))
                self.assertEqual(json.loads(found["settings"]["qa_exact"]["stop"]), stops)
        for before in (("--config", config, "launch"), ("launch", "--config", config)):
            self.assertRefused(run(*before, "-n", 1, "--", *words), "--config has no effect on launch; give it after --")
        self.assertRefused(run("launch", "-n", 1, "check", base), "launch: found no --")

    def test_what_the_system_refuses_is_said_in_plain_words(self):
        loop = self.folder / "loop"
        loop.symlink_to(loop)
        for options, message in [(("--model", loop), f"dapt: error: {loop}/tokenizer.json: Too many levels of symbolic links\n"), (("--model", "m" * 300), f"dapt: error: {'m' * 300}/tokenizer.json: File name too long\n")]:
            self.assertEqual(run("tokenize", *options, "--pages", self.pages).stderr, message)
        small = ("--rank", 2, "--max-steps", 1)
        result = run("train", "--model", model, "--pages", self.pages, "--max-length", 10**18, "--dtype", "fp32", "--out", self.folder / "out", *small)
        self.assertIn("\ndapt: error: out of memory: more memory could not be had; --micro-batch-size, --max-length,", result.stderr)
        for options, message in [(("--rank", 2**40), f"--rank: found {2**40}, expected at most 1048576"), (("--seed", -1), "--seed: found -1, expected a whole number from 0 to 2^64 - 1"),
                                 (("--seed", 2**64), f"--seed: found {2**64}, expected"), (("--max-tokens", 2**63), f"--max-tokens: found {2**63}, expected a whole number from 0 to 2^63 - 1"),
                                 (("--max-tokens", "0100"), "--max-tokens: found 0100, expected a whole number from 0 to 2^63 - 1, without a 0 before it"),
                                 (("--batch-size", 0), "--batch-size: found 0, expected a whole number from 1 to 2^63 - 1"),
                                 (("--rank-timeout", 1e10), "--rank-timeout: found 10000000000.0, expected at most 1000000"), (("--rank-timeout", "nan"), "--rank-timeout: found nan, expected a number above 0"),
                                 (("--modules-to-save", "\udce9"), "--modules-to-save: found \\xE9, expected UTF-8"), (("--start-token", "x\udce9"), "--start-token: found x\\xE9, expected UTF-8")]:
            with self.subTest(message):
                self.assertRefused(self.train(self.folder / "out", *small, *options), message)
        self.assertRefused(run("tokenize", "--model", model, "--pages", self.pages, "--packed", "--seed", -1), "--seed: found -1, expected a whole number from 0 to 2^64 - 1")
        self.assertRefused(run("filter", "--pages", self.folder / "none"), f"cannot read pages from {self.folder}/none: no such file or folder")

    def test_no_output_takes_the_place_of_an_input_or_is_read_as_pages(self):
        other, folder, terms = self.folder / "other.jsonl", self.folder / "pages", self.folder / "terms"
        other.write_text('{"id": "1", "question": "Which program unpacks?", "answers": ["dpkg"]}\n')
        terms.write_text("dpkg\n")
        (folder / "deep").mkdir(parents=True)
        (folder / "page").write_text("A page.")
        (self.folder / "link").symlink_to(self.pages)
        found, tokenized = ("filter", "--pages", self.pages), ("tokenize", "--model", model)
        scored = (*found, "--scorer", "terms", "--terms", terms, "--min-score", 0)
        small = ("--model", model, "--max-steps", 1, "--out", self.folder / "out")
        refused = {"--findings and --pages are one file": (*found, "--findings", self.folder / "link"), "--out and --qa are one file": (*found, "--qa", other, "--out", other),
                   "--write-scores and --terms are one file": (*scored, "--write-scores", terms), "--out and --pages are one file": (*tokenized, "--pages", self.pages, "--out", self.pages),
                   "--out and --cloze are one file": ("eval", "--model", model, "--cloze", other, "--out", other), "--write-scores and --pages are one file": ("train", *small, "--pages", self.pages, "--write-scores", self.pages)}
        for option, command in {"--out": ("filter", "--out", folder / "deep/kept.jsonl"), "--findings": ("train", *small, "--findings", folder / "found"), "--store": (*tokenized, "--store", folder / "store"),
                                "--out:": ("compare", *small[:-1], folder / "run")}.items():
            refused[f"{option.rstrip(':')}: {command[-1]} is in the folder of --pages, {folder}, and would be read as pages"] = (*command, "--pages", folder)
        refused[f"--out: {self.folder / 'kept.jsonl.gz'} has the name of a compressed file, and is written as it is; leave out .gz"] = (*found, "--out", self.folder / "kept.jsonl.gz")
        before = {file: file.read_bytes() for file in self.folder.rglob("*") if file.is_file()}
        for message, command in refused.items():
            with self.subTest(message):
                self.assertRefused(run(*command), message)
        self.assertEqual({file: file.read_bytes() for file in self.folder.rglob("*") if file.is_file()}, before)
        self.assertEqual(run("filter", "--pages", folder, "--out", folder / ".kept", "--findings", self.folder / "pages-found").returncode, 0)  # no page: hidden, and beside
        for pages, out in (("pages", "kept"), (folder, "kept-too"), ("pages", self.folder / "pages.kept")):  # the same by names from here
            self.assertEqual(run("filter", "--pages", pages, "--out", out, folder=self.folder).returncode, 0)
        self.assertRefused(run("filter", "--pages", folder, "--out", "pages/kept", folder=self.folder), "--out: pages/kept is in the folder of --pages")
        # A link to a file on another disk stays one; the pages themselves may be replaced.
        link, disk = self.folder / "scores", self.folder / "disk"
        link.symlink_to(disk)
        self.assertEqual(run(*scored, "--write-scores", link, "--out", self.pages).returncode, 0)
        self.assertEqual((link.is_symlink(), len(disk.read_text().splitlines()), len(self.pages.read_text().splitlines())), (True, 13, 12))

    def test_toml_file_holds_options_and_flags_win(self):
        config = self.folder / "run.toml"
        config.write_text('[train]\nrank = 2\nmax-steps = 1\nlr = 1e-3\ntargets = [\n  "q_proj",\n  "v_proj",\n]\n')
        out = self.folder / "toml"
        result = self.train(out, "--config", config, "--rank", 3)
        self.assertEqual(result.returncode, 0, result.stderr)
        adapter = json.loads((out / "adapter/adapter_config.json").read_text())
        self.assertEqual((adapter["r"], sorted(adapter["target_modules"])), (3, ["q_proj", "v_proj"]))
        self.assertEqual(json.loads((out / "log.jsonl").read_text())["lr"], 1e-3)

    def test_false_flags_and_empty_arrays_of_a_toml_file_are_as_not_given(self):
        config, base = self.folder / "run.toml", self.folder / "base"
        base.mkdir()
        write_model(base, source)
        config.write_text("[train]\nmax-steps = 1\nkeep-best = false\ntargets = []\nuse-dora = false\neos = false\n")
        for adapter in ("lora", "full"):  # with full neither DoRA nor targets have an effect
            result = self.train(self.folder / adapter, "--config", config, "--adapter", adapter, base=base)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("documents joined, between them: none\n", result.stderr)  # --no-eos: a flag that is on by default

    def test_a_broken_toml_file_is_refused_with_its_line(self):
        config = self.folder / "run.toml"
        config.write_text("[train]\nrank = 2\nlr = \n")
        self.assertRefused(self.train(self.folder / "out", "--config", config, "--max-steps", 1), "line 3")
        for text, message in [("[train]\nrank = 2\nlearning-rate = 1\n", 'line 3 of the TOML file: found [train] "learning-rate", which is no option there'),
                              ("[trian]\nrank = 2\n", "line 2 of the TOML file: found [trian], which is no command"),
                              ("rank = 2\n[train]\nlr = 1e-3\n", 'line 1 of the TOML file: found above all sections "rank", which is no option there')]:
            with self.subTest(message):
                config.write_text(text)
                self.assertRefused(self.train(self.folder / "out", "--config", config, "--max-steps", 1), message)
        config.write_text("[train]\nrank = 2\n[compare]\nlr = 1e-3\n")  # of another command: known, and not asked for
        self.assertEqual(self.train(self.folder / "out", "--config", config, "--max-steps", 1).returncode, 0)

    def test_a_model_that_is_named_twice_and_a_wrong_environment_are_refused_at_once(self):
        self.assertEqual(run("check", model, "--model", model).returncode, 108)  # CLI11's for options that exclude each other
        for name in ("DAPT_FP32_PRODUCTS", "DAPT_ISA"):
            result = subprocess.run([program, "filter", "--pages", self.pages], capture_output=True, text=True, env=os.environ | {name: "mkl"})
            self.assertRefused(result, f'{name}: found "mkl"')
            self.assertNotIn("read: ", result.stderr)

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
            (("--gradient-sums", "bf16", "--max-steps", 1), "--gradient-sums has no effect"),
            (("--gradient-sums", "bf16", "--adapter", "full", "--max-steps", 1), "--gradient-sums has no effect without --dtype bf16"),
            (("--warmup", 0.1, "--max-steps", 1), "--warmup has no effect"),
            ((), "no budget"),
            (("--min-score", 0.5, "--max-steps", 1), "--min-score has no effect"),
            (("--terms", self.pages, "--max-steps", 1), "--terms has no effect"),
            (("--contamination", "drop", "--max-steps", 1), "--contamination drop has no effect"),
            (("--duplicates", "off", "--findings", self.folder / "f", "--max-steps", 1), "--findings has no effect"),
            (("--eval-steps", 0, "--keep-best", "--max-steps", 1), "--keep-best has no effect with --eval-steps 0"),
            (("--eval-steps", 1, "--keep-best=qa_exact", "--held-out", 0.3, "--max-steps", 1), "--keep-best qa_exact has no effect without --eval-metrics qa_exact"),
            (("--eval-steps", 1, "--eval-metrics", "logp_mrr", "--max-steps", 1), "--eval-metrics logp_mrr needs --cloze"),
            (("--eval-steps", 1, "--eval-metrics", "qa_exact", "--held-out", 0.3, "--qa", self.folder / "none", "--max-steps", 1), "--held-out has no effect without --eval-metrics perplexity"),
            (("--fewshot", self.folder / "none", "--eval-steps", 1, "--max-steps", 1), "--fewshot has no effect without --eval-steps and --eval-metrics qa_exact"),
            (("--qa", self.folder / "none", "--contamination", "off", "--max-steps", 1), "--qa has no effect without --eval-steps and --eval-metrics qa_exact"),
            (("--one-by-one", "--max-steps", 1), "--one-by-one has no effect without --eval-steps"),
            (("--eval-steps", 2, "--held-out", 0.5, "--max-steps", 1), "--eval-steps 2 has no effect in 1 steps"),
            (("--start-token", "Ġthe", "--max-steps", 1), "--start-token has no effect without --eval-steps"),
            (("--schedule", "linear", "--warmup", 1, "--max-steps", 1), "found 1, expected 0 or more and less than 1"),
        ]:
            with self.subTest(message):
                self.assertRefused(self.train(self.folder / "out", *options), message)
        self.assertRefused(run("tokenize", "--model", model, "--pages", self.pages, "--dtype", "fp32"), "--dtype")
        one = self.folder / "one.jsonl"
        scored = ("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 0.5, "--out", one)
        self.assertRefused(run(*scored, "--write-scores", self.folder / "." / "one.jsonl"), "--out and --write-scores are one file")
        self.assertRefused(run(*scored, "--findings", one), "--out and --findings are one file")

    def test_lora_options_without_effect_or_that_cannot_be_read_are_refused(self):
        said_by_folder = [("--rank", 4), ("--alpha", 4), ("--targets", "q_proj"), ("--targets-regex", ".*q_proj"), ("--exclude-modules", "q_proj"), ("--layers-to-transform", 1),
                          ("--rank-pattern", "q_proj=2"), ("--alpha-pattern", "q_proj=2"), ("--use-rslora",), ("--use-dora",), ("--init-lora-weights", "pissa"),
                          ("--modules-to-save", "norm")]
        of_the_run = [("--lora-dropout", 0.1), ("--loraplus-lr-ratio", 4), ("--modules-to-save-lr", 1e-5), ("--init-adapter", "folder")]
        cases = [(("--adapter", "full", *option), option[0] + " has no effect without --adapter lora") for option in said_by_folder + of_the_run]
        cases += [(("--init-adapter", "folder", *option), option[0] + " has no effect with --init-adapter") for option in said_by_folder]
        cases += [
            (("--modules-to-save-lr", 1e-5), "--modules-to-save-lr has no effect without --modules-to-save"),
            (("--targets", "q_proj", "--targets-regex", ".*q_proj"), "give one of the two"),
            (("--rank-pattern", "q_proj"), '--rank-pattern: found "q_proj", expected REGEX=NUMBER'),
            (("--rank-pattern", "q_proj=2.5"), '--rank-pattern: found "q_proj=2.5"'),
            (("--alpha-pattern", "=2"), '--alpha-pattern: found "=2"'),
            (("--init-lora-weights", "olora"), '--init-lora-weights: found "olora"'),
            (("--init-lora-weights", "pissa_niter_0"), '--init-lora-weights: found "pissa_niter_0"'),
            (("--init-adapter", self.folder / "nowhere"), "nowhere/adapter_config.json: cannot be opened"),
        ]
        for options, message in cases:
            with self.subTest(message):
                self.assertRefused(self.train(self.folder / "out", *options, "--max-steps", 1), message)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
