"""dapt eval: layouts, the order of models, what is written whatever ends it, and what a tokenizer never spells.

usage: eval_test.py SOURCE_DIR BUILD_DIR        the model folder is in DAPT_SMOLLM2
"""
import json
import os
import shutil
import subprocess
import sys
import unittest

from program_case import ProgramTest, domain, model, program, run, source
from tiny_model import write_model


class Eval(ProgramTest):
    def test_eval_asks_in_the_layout_that_is_given_and_says_so(self):
        qa, results = self.folder / "qa.jsonl", self.folder / "results.json"
        qa.write_text((domain / "qa.jsonl").read_text(encoding="utf-8").splitlines(True)[0], encoding="utf-8")
        asked = ("eval", "--model", model, "--qa", qa, "--fewshot", domain / "fewshot.jsonl")
        result = run(*asked, "--exemplar-layout", r"Q: {question}\nA:{answer}\n", "--question-layout", r"Q: {question}\nA:", "--stop", r"\n", "--stop", "。", "--normalisation",
                     "nfkc,strip,remove_japanese_punctuation", "--one-by-one", "--out", results)
        self.assertEqual(result.returncode, 0, result.stderr)
        settings = json.loads(results.read_text())["settings"]["qa_exact"]
        self.assertEqual((settings["prompt"], settings["stop"], settings["normalisation"]),
                         ("Q: {question}\nA:{answer}\nQ: {question}\nA:", '["\\n","。"]', "nfkc,strip,remove_japanese_punctuation"))
        qa.write_text(json.dumps({"id": "1", "question": "Which is the longest?", "answers": ["one that has many more tokens than are generated for it here"]}) + "\n")
        result = run(*asked, "--max-new-tokens", 3, "--out", results)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(json.loads(results.read_text())["settings"]["qa_exact"]["max_new_tokens"], "3")
        self.assertIn("1 of 1 questions accept only answers longer than 3 tokens", result.stderr)
        self.assertRefused(run(*asked, "--stop", r"\x"), "expected n, t or")
        self.assertRefused(run("eval", "--model", model, "--cloze", domain / "cloze.jsonl", "--stop", "x"), "no effect without --qa")

    def test_memory_that_is_refused_ends_a_run_with_a_checkpoint_and_an_evaluation_with_the_results_before_it(self):
        small, out, results = self.folder / "small", self.folder / "out", self.folder / "results.json"
        small.mkdir()
        write_model(small, source)

        self.write_pages([{"work": "w", "page": i, "text": f"Page {i} tells how dpkg unpacks package {i * i}. " * 20} for i in range(800)])  # 128 x 1,024 tokens take 2 GB
        training = ("train", "--model", small, "--pages", self.pages, "--duplicates", "off", "--max-length", 1024, "--dtype", "fp32", "--threads", 1, "--rank", 2, "--max-steps", 1, "--out", out)
        result = run(*training, "--batch-size", 128, "--micro-batch-size", 128, mib=1200)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stderr, r"\ndapt: error: Trainer: out of memory in the (forward|backward) pass of micro-batch 1 of 1 \(128 x 1024 tokens\) at step 1: \d+ MiB more could not be had, the peak was \d+ MiB\."
                                        r".*the weights are those before the step; --micro-batch-size, --max-length, .* lower what a run needs")
        self.write_pages([{"work": "w", "page": 0, "text": "Page 0 tells how dpkg unpacks. " * 8}])
        result = run("eval", "--model", small, "--model", model, "--pages", self.pages, "--dtype", "fp32", "--max-length", 64, "--threads", 1, "--out", results, mib=1075)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stderr, rf"dapt: error: out of memory: \d+ MiB more could not be had; .*; 1 of 2 models and adapters were scored before; their results are in {results}\n$")
        self.assertEqual([entry["model"] for entry in json.loads(results.read_text())], [str(small)])

    def test_eval_tells_what_a_tokenizer_that_normalises_never_spells(self):
        base = self.folder / "base"
        base.mkdir()
        write_model(base, source)
        tokenizer = json.loads((base / "tokenizer.json").read_text())
        (base / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "NFKC"}}))
        qa, cloze = self.folder / "qa.jsonl", self.folder / "cloze.jsonl"
        qa.write_text("".join(json.dumps({"id": answer, "question": "Q?", "answers": [answer]}) + "\n" for answer in ("ｄｎａ", "dna")))
        cloze.write_text(json.dumps({"id": "c", "sentence": "It is {word}.", "answer": "ｄｎａ", "candidates": ["ｄｎａ", "dna", "rna"]}) + "\n")
        for options, told in (((), True), (("--normalisation", "strip,casefold,nfkc"), False)):
            result = run("eval", "--model", base, "--dtype", "fp32", "--threads", 1, "--qa", qa, "--cloze", cloze, *options)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual("1 of 2 questions accept only answers that this tokenizer does not spell" in result.stderr, told)
            self.assertIn("1 of 1 sentences have candidates that are the same tokens to this tokenizer", result.stderr)

    def test_eval_shows_the_best_first_and_makes_the_folder_of_its_results(self):
        models = [self.folder / f"model-{seed}" for seed in (1, 2, 3)]
        for seed, folder in enumerate(models):
            folder.mkdir()
            write_model(folder, source, seed=seed + 1)

        def scored(*tasks, order=models):
            result = run("eval", *(f"--model={folder}" for folder in order), "--dtype", "fp32", *tasks)
            self.assertEqual(result.returncode, 0, result.stderr)
            return [list(map(float, line.split()[1:])) for line in result.stdout.splitlines()[1:]]

        perplexities, ranks = scored("--pages", self.pages), scored("--cloze", domain / "cloze.jsonl")
        self.assertEqual(len({row[0] for row in perplexities + ranks}), 6)  # no two alike
        self.assertEqual(perplexities, sorted(perplexities))
        self.assertEqual(perplexities, scored("--pages", self.pages, order=models[::-1]))
        self.assertEqual(ranks, sorted(ranks, reverse=True))
        self.assertEqual(ranks, scored("--cloze", domain / "cloze.jsonl", order=models[::-1]))

        # Models that were scored before one that cannot be are shown and written; one that is not there is told before any is scored.
        results = self.folder / "results.json"
        misshapen = self.folder / "misshapen"
        misshapen.mkdir()
        write_model(misshapen, source)
        config = json.loads((misshapen / "config.json").read_text())
        (misshapen / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
        scoring = ("eval", "--dtype", "fp32", "--pages", self.pages, "--model", models[0])
        result = run(*scoring, "--model", misshapen, "--out", results)
        self.assertRefused(result, "mlp.gate_proj.weight", "1 of 2 models and adapters were scored before; their results are in ")
        self.assertIn(str(models[0]), result.stdout)
        written = json.loads(results.read_text())
        self.assertEqual([(entry["model"], entry["dtype"], entry["quantize"]) for entry in written], [(str(models[0]), "fp32", "none")])
        for option, value in {"--model": self.folder / "nowhere", "--peft": self.folder / "nowhere", "--out": self.folder}.items():
            result = run(*scoring, option, value)
            self.assertNotEqual(result.returncode, 0)
            self.assertEqual(result.stdout, "")
            self.assertNotIn("perplexity", result.stderr)

        self.assertEqual(self.train(self.folder / "trained", "--max-steps", 1, "--rank", 2, base=models[0]).returncode, 0)
        fits, misfit = self.folder / "trained/adapter", self.folder / "misfit"
        shutil.copytree(fits, misfit)
        (misfit / "adapter_config.json").write_text((fits / "adapter_config.json").read_text().replace('"r": 2', '"r": 3'))
        result = run(*scoring, "--peft", fits, "--peft", misfit)
        self.assertRefused(result, f"{misfit}/adapter_model.safetensors", "expected [3, ")
        self.assertNotIn("were scored before", result.stderr)
        self.assertEqual(result.stdout, "")

        cloze = ("eval", "--model", models[0], "--cloze", domain / "cloze.jsonl")
        self.assertEqual(run(*cloze, "--out", self.folder / "new/folder/results.json").returncode, 0)
        self.assertTrue((self.folder / "new/folder/results.json").exists())
        self.assertRefused(run(*cloze, "--out", self.pages / "results.json"), "pages.jsonl: cannot make the folder")
        self.assertRefused(run(*cloze, "--max-length", 512), "--max-length has no effect without --pages")
        self.assertRefused(run("eval", "--model", models[0], "--qa", domain / "qa.jsonl", "--start-token", "a"), "--start-token has no effect without --cloze or pages for the perplexity")

    def test_eval_writes_its_results_though_nobody_reads_the_table(self):
        base, results = self.folder / "base", self.folder / "results.json"
        base.mkdir()
        write_model(base, source)
        command = [program, "eval", "--model", base, "--pages", self.pages, "--dtype", "fp32", "--out", results]
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            self.assertNotEqual(subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE).returncode, 0)
        self.assertEqual(json.loads(results.read_text())["model"], str(base))
        with open("/dev/full", "w") as full:
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertRefused(result, f"dapt: error: standard output: could not be written to its end; their results are in {results}\n")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
