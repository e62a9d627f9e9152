"""Pages that are scored and filtered: what is told before a model scores them, what becomes of scores that are there already, and what a filter says.

usage: score_test.py SOURCE_DIR BUILD_DIR
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

from tiny_model import write_model

source, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
program = build / "bin" / "dapt"
recorded = source / "tests/parity"


def run(*arguments):
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


class Score(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.base, self.classifier, self.pages, self.out = (self.folder / name for name in ("base", "classifier", "pages.jsonl", "out"))
        self.base.mkdir()
        write_model(self.base, source)
        self.classifier.mkdir()
        for name, file in [("config.json", "encoders/bert/config.json"), ("model.safetensors", "encoders/bert/model.safetensors"), ("tokenizer.json", "text/bert.tokenizer.json")]:
            (self.classifier / name).symlink_to(recorded / file)
        self.scorer = ("--pages", self.pages, "--scorer", "classifier", "--classifier", self.classifier, "--classifier-label", "good", "--duplicates", "off")
        self.write_pages(f"Page {i} tells how dpkg unpacks package number {i}. " * 8 for i in range(12))

    def write_pages(self, texts):
        self.pages.write_text("".join(json.dumps({"work": "w", "page": i, "text": text}) + "\n" for i, text in enumerate(texts)))

    def command(self, name, *options, base=None, min_score=-100):
        return run(name, "--model", base or self.base, *self.scorer, "--min-score", min_score, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--max-steps", 1, "--out", self.out, *options)

    def assertGood(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)

    def assertRefused(self, result, *parts):
        self.assertNotEqual(result.returncode, 0, result.stderr)
        for part in parts:
            self.assertIn(part, result.stderr)

    def assertRefusedBeforeScoring(self, result, *parts):
        self.assertRefused(result, *parts)
        self.assertEqual([str(file) for file in self.out.rglob("*scores.jsonl*")], [], parts)

    def test_mistakes_of_a_comparison_are_told_before_pages_are_scored(self):
        qa = self.folder / "qa.jsonl"
        qa.write_text('{"id": "a", "question": "Which program unpacks?", "answers": ["dpkg"]}\n')
        for options, message in [(("--qa", qa, "--fewshot", self.folder / "nothere.jsonl"), "nothere.jsonl: cannot be opened"),
                                 (("--qa", qa, "--normalisation", "nfkd"), "nfkd"),
                                 (("--qa", qa, "--stop", r"\q"), r'"\q": expected n, t or \ after each '),
                                 (("--qa", qa, "--stop", ""), "--stop: found an empty text"),
                                 (("--qa", qa, "--question-layout", "Q"), 'the layout "Q" has no {question}'),
                                 (("--fewshot", qa), "--fewshot has no effect without --qa"),
                                 (("--start-token", "nope", "--held-out", 0.3), 'start token: "nope" is not in the vocabulary'),
                                 (("--start-token", "Ġthe", "--held-out", 0), "--start-token has no effect without --cloze or pages"),
                                 (("--eval-steps", 2), "--eval-steps 2 has no effect in 1 steps"),
                                 (("--eval-steps", 1, "--held-out", 0), "--held-out 0 leaves no page to evaluate on")]:
            with self.subTest(message):
                self.assertRefusedBeforeScoring(self.command("compare", *options, "--setting", "small = --rank 2"), message)

    def test_mistakes_of_a_training_are_told_before_pages_are_scored(self):
        def variant(name, **changes):
            folder = self.folder / name
            folder.mkdir()
            write_model(folder, source, **changes)
            return folder

        half, short, few, silent = variant("half"), variant("short"), variant("few", vocabulary=500), variant("silent")
        (half / "model.safetensors").unlink()
        config = json.loads((short / "config.json").read_text())
        (short / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
        (silent / "tokenizer_config.json").write_text("{}")
        (silent / "tokenizer.json").write_text((silent / "tokenizer.json").read_text().replace("<|endoftext|>", "<unused>"))
        for base, options, message in [(self.base, ("--eval-steps", 1, "--start-token", "nope"), 'start token: "nope" is not in the vocabulary'),
                                       (half, (), f"{half}: found no weights, expected model.safetensors"),
                                       (short, (), f'{short}: no tensor "model.layers.2.'),
                                       (short, (), "; and 8 more, which dapt check tells"),  # a layer has nine
                                       (few, (), f"{few}: the tokenizer has 923 ids, the model only 500 embeddings"),
                                       (silent, (), "give --no-eos")]:
            with self.subTest(message):
                self.assertRefusedBeforeScoring(self.command("train", *options, base=base), message)
        self.assertGood(self.command("train", "--rank", 2))
        (self.out / "scores.jsonl").unlink()
        self.assertRefusedBeforeScoring(self.command("train", "--rank", 2), "holds checkpoints of an earlier run", "give --resume")

    def test_a_run_that_failed_behind_its_scoring_leaves_its_scores_to_the_next_one(self):
        scores = self.out / "scores.jsonl"
        self.assertRefused(self.command("train", min_score=100), "none of 12 pages")
        scored_at = scores.stat().st_mtime_ns
        self.assertRefused(self.command("train", min_score=99), "none of 12 pages")
        result = self.command("train", "--rank", 2)
        self.assertGood(result)
        self.assertIn(f"the scores are those of the earlier run ({scores})", result.stderr)
        self.assertEqual(scores.stat().st_mtime_ns, scored_at)
        shutil.rmtree(self.out / "checkpoints")
        self.write_pages(f"Page {i} tells how apt fetches package number {i}. " * 8 for i in range(12))
        self.assertRefused(self.command("train", "--rank", 2), f"{scores}: from line 2 on no score of work \"w\", page 0", "remove the file to score these pages anew")
        result = self.command("train", "--rank", 2, "--line-rule", "max")  # other scores
        self.assertGood(result)
        self.assertNotIn("of the earlier run", result.stderr)
        self.assertNotEqual(scores.stat().st_mtime_ns, scored_at)
        shutil.rmtree(self.out / "checkpoints")
        scores.write_text("")
        self.assertGood(self.command("train", "--rank", 2))
        self.assertEqual(len(scores.read_text().splitlines()), 13)

    def test_lines_that_were_cut_are_those_of_the_pages_that_this_run_scored(self):
        scores = self.folder / "scores.jsonl"
        self.write_pages("dpkg unpacks packages" if i % 2 else "dpkg" for i in range(300))
        filtering = ("filter", *self.scorer, "--line-tokens", 3, "--write-scores", scores)
        result = run(*filtering)
        self.assertGood(result)
        self.assertIn("mean of the lines: 300 of 300 lines were longer than 3 tokens and cut\n", result.stderr)
        (self.folder / ".scores.jsonl.partial").write_text("".join(scores.read_text().splitlines(True)[:258]))  # as a run that was stopped leaves it: its 257th page is scored again
        result = run(*filtering)
        self.assertGood(result)
        self.assertIn("mean of the lines: 44 of 44 lines were longer than 3 tokens and cut, of the pages scored by this run\n", result.stderr)

    def test_a_threshold_is_a_finite_number(self):
        for number in ("nan", "inf", "-inf"):
            self.assertRefused(run("filter", *self.scorer, f"--min-score={number}", "--out", self.out), f"--min-score: found {number}, expected a finite number")
            self.assertFalse(self.out.exists())

    def test_a_file_without_a_page_says_why_its_lines_are_none(self):
        self.pages.write_bytes(b'{"text": "\xff"}\nno json\n{"text": " "}\n')
        terms = self.folder / "terms"
        terms.write_text("dpkg\n")
        for scorer in ((), ("--scorer", "terms", "--terms", terms, "--min-score", 0)):
            self.assertRefused(run("filter", "--pages", self.pages, *scorer, "--on-bad-input", "skip"), f"{self.pages}: no page with text in it, 1 empty, 1 skipped for their encoding, 1 skipped for their JSON\n")

    def test_pages_without_a_label_are_counted_in_the_header_of_a_run(self):
        labels = self.folder / "labels.jsonl"
        labels.write_text("".join(json.dumps({"work": "w", "page": i, "domain": i != 1}) + "\n" for i in range(3)))
        result = self.command("train", "--rank", 2, "--labels", labels)
        self.assertGood(result)
        self.assertIn("\nfilter against labels: precision 0.666667, recall 1, F1 0.8 (9 pages without a label)\n", result.stderr)  # two of three labelled pages are of the domain, all are kept

    def test_terms_are_read_from_files_whose_names_have_commas(self):
        filtering = ("filter", "--pages", self.pages, "--scorer", "terms", "--duplicates", "off", "--min-score", 0.1, "--out", self.out)
        for file, term in (("a", "package"), ("b", "number 3"), ("a,b", "number 7")):
            (self.folder / file).write_text(term + "\n")
        self.assertGood(run(*filtering, "--terms", self.folder / "a,b"))
        self.assertEqual([json.loads(line)["page"] for line in self.out.read_text().splitlines()], [7])
        self.assertGood(run(*filtering, "--terms", self.folder / "a,b", "--terms", self.folder / "b"))
        self.assertEqual([json.loads(line)["page"] for line in self.out.read_text().splitlines()], [3, 7])
        self.assertGood(run(*filtering, "--terms", f"{self.folder}/b,{self.folder}/a"))
        self.assertEqual(len(self.out.read_text().splitlines()), 12)
        (self.folder / "a,b").unlink()
        self.assertGood(run(*filtering, "--terms", f"{self.folder}/b"))
        self.assertEqual([json.loads(line)["page"] for line in self.out.read_text().splitlines()], [3])
        self.assertRefused(run(*filtering, "--terms", f"{self.folder}/b,{self.folder}/c"), f"{self.folder}/c: ")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
