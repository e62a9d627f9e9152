"""dapt filter and dapt tokenize: pages kept and dropped, scores, copies, contamination, and the ids that training reads.

usage: filter_test.py SOURCE_DIR BUILD_DIR        the model folder is in DAPT_SMOLLM2
"""
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import unittest

from program_case import ProgramTest, domain, model, program, run, source
from tiny_model import write_model


class Filter(ProgramTest):
    def stop(self, process):
        """Returns when the process knows of it."""
        process.send_signal(signal.SIGTERM)
        for line in process.stderr:
            if line.startswith("stopping as soon as"):
                return
        self.fail("the process ended")

    def test_filter_keeps_by_score_and_says_what(self):
        kept = self.folder / "kept.jsonl"
        result = run("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 0.5, "--model", model, "--out", kept)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([json.loads(line)["page"] for line in kept.read_text().splitlines()], [6, 7, 8, 9, 10, 11])
        self.assertIn("kept    6 pages", result.stderr)

    def test_filter_reports_and_drops_copies_and_pages_that_hold_evaluation_items(self):
        text = " ".join(f"word{i}" for i in range(60))
        texts = [text, "Another page.", text.upper() + "\n", text.replace("word30", "other"), "An exercise: WHAT is the name of the low-level package tool of Debian?"]
        (self.folder / "corpus").mkdir()
        self.pages = self.folder / "corpus" / "1.jsonl"
        self.write_pages([{"work": "w", "page": i, "text": text} for i, text in enumerate(texts[:2])])
        self.pages = self.folder / "corpus" / "2.jsonl"
        self.write_pages([{"work": "w", "page": i, "text": text} for i, text in enumerate(texts) if i >= 2])
        qa = self.folder / "qa.jsonl"
        qa.write_text('{"id": "q7", "question": "What is the name of the low-level package tool of Debian?", "answers": ["dpkg"]}\n')
        findings, out = self.folder / "findings.jsonl", self.folder / "out.jsonl"

        def filtered(*options):
            result = run("filter", "--pages", self.folder / "corpus", "--qa", qa, "--out", out, *options)
            self.assertEqual(result.returncode, 0, result.stderr)
            return [json.loads(line)["page"] for line in out.read_text().splitlines()], result.stderr

        kept, messages = filtered("--findings", findings)
        self.assertEqual(kept, [0, 1, 2, 3, 4])
        self.assertIn("duplicates: 2 of 5 pages are copies of earlier ones (1 exact, 1 near), kept", messages)
        self.assertIn("contamination: 1 of 1 evaluation items stand in 1 pages, kept", messages)
        self.assertIn("2.jsonl:1 (w, page 2) is a copy of", messages)
        found = [json.loads(line) for line in findings.read_text().splitlines()]
        self.assertEqual([(line["found"], line["page"], line["source"].rsplit("/", 1)[1]) for line in found],
                         [("copy", 2, "2.jsonl:1"), ("copy", 3, "2.jsonl:2"), ("evaluation item", 4, "2.jsonl:3")])
        self.assertEqual([line["of"]["source"].rsplit("/", 1)[1] for line in found[:2]], ["1.jsonl:1", "1.jsonl:1"])
        self.assertAlmostEqual(found[1]["jaccard"], 51 / 61)
        self.assertEqual((found[2]["item"], found[2]["share"]), ("qa.jsonl q7", 1))
        self.assertEqual(filtered("--duplicates", "drop")[0], [0, 1, 4])
        self.assertEqual(filtered("--contamination", "drop")[0], [0, 1, 2, 3])
        messages = filtered("--duplicates", "off", "--contamination", "off")[1]
        self.assertNotIn("duplicates:", messages)
        self.assertNotIn("contamination:", messages)

    def test_pages_that_all_hold_evaluation_items_are_said_to_be_the_reason_that_none_is_left(self):
        """Past papers, say: with any scorer, and where the tokens are read."""
        qa, terms, out, scores = (self.folder / name for name in ("qa.jsonl", "terms.txt", "out.jsonl", "scores.jsonl"))
        question = "What is the name of the low-level package tool of Debian?"
        qa.write_text(json.dumps({"id": "q7", "question": question, "answers": ["dpkg"]}) + "\n")
        terms.write_text("dpkg\n")
        self.write_pages([{"work": "w", "page": i, "text": f"{i}. {question}"} for i in range(3)])
        asked = ("--pages", self.pages, "--qa", qa, "--contamination", "drop", "--duplicates", "off")
        message = f"{self.pages}: --contamination drop leaves none of the 3 pages: 1 of 1 evaluation items stand in them"
        for scorer in (("none",), ("terms", "--terms", terms, "--min-score", 1, "--write-scores", scores), ("ngram", "--terms", terms)):
            self.assertRefused(run("filter", *asked, "--scorer", *scorer, "--out", out), message)
            self.assertFalse(out.exists() or scores.exists())
        self.assertRefused(run("tokenize", "--model", model, *asked, "--store", out), message)

    def test_filter_is_fitted_to_a_part_of_a_large_corpus_and_scores_all_of_it(self):
        words = ["dpkg unpacks the archive and apt asks for what it depends on".split(), "the cook peels an onion and lets it fry in a pan of butter".split()]
        texts = [" ".join(words[i % 2][i * k % 12] for k in range(1, 200)) + f" {i}" for i in range(2400)]
        self.write_pages([{"work": "w", "page": i, "text": text} for i, text in enumerate(texts)])
        terms, kept = self.folder / "terms.txt", self.folder / "kept.jsonl"
        terms.write_text("dpkg\n")
        result = run("filter", "--pages", self.pages, "--scorer", "ngram", "--terms", terms, "--fit-mib", 1, "--duplicates", "off", "--out", kept)
        self.assertEqual(result.returncode, 0, result.stderr)
        fitted = int(re.search(r"fitted to (\d+) of 2400 pages", result.stderr)[1])
        self.assertLessEqual(fitted * min(map(len, texts)), 2**20)
        self.assertGreater((fitted + 1) * max(map(len, texts)), 2**20)
        self.assertEqual({json.loads(line)["page"] % 2 for line in kept.read_text().splitlines()}, {0})

    def test_scores_are_looked_at_written_once_and_used_again(self):
        scores, kept = self.folder / "scores.jsonl", self.folder / "kept.jsonl"
        result = run("filter", "--pages", self.pages, "--scorer", "field", "--write-scores", scores)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("scores of 12 pages, from 0 to 0.9166666666666666;", result.stderr)
        self.assertIn("duplicates: none of 12 pages is a copy of an earlier one", result.stderr)
        self.assertIn("no threshold is set", result.stderr)
        scores.unlink()
        self.assertRefused(run("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 2, "--write-scores", scores), "none of 12 pages")  # and writes them
        self.write_pages([{key: value for key, value in json.loads(line).items() if key != "score"} for line in self.pages.read_text().splitlines()])
        result = run("filter", "--pages", self.pages, "--scores", scores, "--min-score", 0.5, "--show", 1, "--out", kept)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([json.loads(line)["score"] for line in kept.read_text().splitlines()], [i / 12 for i in range(6, 12)])
        lowest, highest = result.stderr.index("the lowest pages that are kept\n  0.5  w page 6"), result.stderr.index("the highest pages that are dropped\n  0.4166666666666667  w page 5")
        self.assertLess(lowest, highest)
        self.assertRefused(run("filter", "--pages", self.pages, "--scores", scores, "--out", kept), "--scores needs --min-score")
        self.assertRefused(run("filter", "--pages", self.pages, "--scores", scores, "--scorer", "field"), "two sources")
        self.write_pages([{"work": "w", "page": 1, "text": "another"}])
        kept.unlink()
        self.assertRefused(run("filter", "--pages", self.pages, "--scores", scores, "--min-score", 0.5, "--out", kept), "no score of work \"w\", page 1", "pages.jsonl:1")
        self.assertEqual(sorted(file.name for file in self.folder.iterdir()), ["pages.jsonl", "scores.jsonl"])

    def test_scores_of_one_fit_do_not_go_on_with_those_of_another(self):
        texts = [f"Page {i} tells how {'dpkg unpacks' if i % 2 else 'an onion fries in'} {i * i} {'packages' if i % 3 else 'pans'}." for i in range(600)]
        self.write_pages([{"work": "w", "page": i, "text": text} for i, text in enumerate(texts)])
        terms, scores = self.folder / "terms.txt", self.folder / "scores.jsonl"
        terms.write_text("dpkg\n")
        filtering = ("filter", "--pages", self.pages, "--scorer", "ngram", "--terms", terms, "--write-scores", scores)
        self.assertEqual(run(*filtering).returncode, 0)
        whole = scores.read_text()
        scores.unlink()
        partial = self.folder / ".scores.jsonl.partial"
        partial.write_text("".join(whole.splitlines(True)[:300]))  # as a run that was stopped leaves it
        self.write_pages([{"work": "w", "page": i, "text": text if i < 599 else "dpkg and an onion in a pan"} for i, text in enumerate(texts)])
        self.assertRefused(run(*filtering), "holds scores of another run")
        self.write_pages([{"work": "w", "page": i, "text": text} for i, text in enumerate(texts)])
        result = run(*filtering)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("the scores of 256 pages are those of a run that was stopped", result.stderr)
        self.assertEqual(scores.read_text(), whole)

    def test_scores_of_the_field_are_written_anew(self):
        def pages(factor):
            self.write_pages([{"work": "w", "page": i, "text": f"Page {i} tells how dpkg unpacks {i * i}.", "score": factor * i} for i in range(300)])

        scores = self.folder / "scores.jsonl"
        filtering = ("filter", "--pages", self.pages, "--scorer", "field", "--duplicates", "off", "--write-scores", scores)
        pages(1)
        self.assertEqual(run(*filtering).returncode, 0)
        scores.rename(self.folder / ".scores.jsonl.partial")  # as a run that was stopped leaves it
        pages(2)
        result = run(*filtering)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([json.loads(line)["score"] for line in scores.read_text().splitlines()[1:]], [2 * i for i in range(300)])

    def test_two_models_with_other_tokenizers_do_not_score_together(self):
        general, domain = self.folder / "general", self.folder / "domain"
        for folder in (general, domain):
            folder.mkdir()
            write_model(folder, source)
        tokenizer = json.loads((domain / "tokenizer.json").read_text())
        filtering = ("filter", "--pages", self.pages, "--duplicates", "off", "--scorer", "lm", "--domain-model", domain, "--general-model", general)
        (domain / "tokenizer.json").write_text(json.dumps(tokenizer))  # other bytes, the same ids
        result = run(*filtering)
        self.assertEqual(result.returncode, 0, result.stderr)
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        (domain / "tokenizer.json").write_text(json.dumps(tokenizer))
        self.assertRefused(run(*filtering), f"the tokenizers of {domain} and {general} differ: other ids for ")
        (domain / "tokenizer.json").write_bytes((general / "tokenizer.json").read_bytes())
        (domain / "tokenizer_config.json").write_text('{"bos_token": "<|padding|>", "add_bos_token": true}')
        self.assertRefused(run(*filtering), "differ: texts begin with another token")

    def test_filter_judges_its_options_and_a_signal_before_it_searches_for_copies(self):
        with self.pages.open("a") as pages:
            pages.write("no page\n")  # which the search comes to first
        terms = self.folder / "terms"
        terms.write_text("dpkg\n")
        scored = ("filter", "--pages", self.pages, "--out", self.folder / "kept.jsonl")
        for options, message in [(("--scorer", "field"), "--scorer field needs --min-score"), (("--scores", terms), "terms:1: no valid JSON"), (("--scorer", "terms", "--terms", self.folder / "none"), "cannot read "),
                                 (("--scorer", "field", "--min-score", 0, "--labels", terms), "terms:1: "), (("--terms", terms), "--terms has no effect"),
                                 (("--show", 3), "--show has no effect with --scorer none"), (("--model", self.folder / "none"), "--model has no effect with --scorer none"),
                                 (("--scorer", "classifier", "--classifier", self.folder / "none"), "--scorer classifier needs --min-score"), ((), "pages.jsonl:13: ")]:
            with self.subTest(message):
                self.assertRefused(run(*scored, *options), message)
        labels = self.folder / "labels"
        os.mkfifo(labels)
        process = subprocess.Popen(list(map(str, [program, *scored, "--scorer", "field", "--min-score", 0, "--labels", labels])), stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        with labels.open("w") as writer:  # opened when the program reads
            self.stop(process)
            writer.write('{"work": "w", "page": 1, "domain": true}\n')
        self.assertIn("stopped before the last page; nothing was written", process.communicate(timeout=60)[1])
        self.assertEqual(process.returncode, 1)

    def test_pages_are_read_by_no_more_threads_than_the_process_has_cores(self):
        """A thread's stack is larger than what the system gives from when the program opens the pages: another thread is an error."""
        pages, stack, more = self.folder / "pipe", 2 << 30, 1 << 30
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        if hard != resource.RLIM_INFINITY and hard < stack:
            self.skipTest(f"the system permits stacks of {hard} bytes, and this needs {stack}")
        os.mkfifo(pages)

        def ended(*options):
            def limits():
                os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
                resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))

            process = subprocess.Popen(list(map(str, [program, *options, "--pages", pages])), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limits)
            self.addCleanup(process.kill)
            with pages.open("w") as writer:  # opened when the program reads
                size = int(re.search(r"VmSize:\s+(\d+) kB", pathlib.Path(f"/proc/{process.pid}/status").read_text())[1]) << 10
                resource.prlimit(process.pid, resource.RLIMIT_AS, (size + more, size + more))
                writer.write(self.pages.read_text())
            messages = process.communicate(timeout=60)[1]
            return process.returncode, messages

        for command in (("filter", "--duplicates", "off", "--out", self.folder / "kept.jsonl"), ("tokenize", "--model", model), ("tokenize", "--model", model, "--packed"),
                        ("tokenize", "--model", model, "--duplicates", "off", "--store", self.folder / "store")):
            with self.subTest(command):
                code, messages = ended(*command)
                self.assertEqual(code, 0, messages)
                self.assertIn("Resource temporarily unavailable", ended(*command, "--threads", 2)[1])

    def test_tokenize_packed_stops_while_it_reads(self):
        pages = self.folder / "pipe"
        os.mkfifo(pages)
        process = subprocess.Popen([program, "tokenize", "--packed", "--model", model, "--pages", pages], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        with pages.open("w") as writer:
            self.stop(process)
            writer.write(self.pages.read_text() + "no page\n")  # which it would come to
        self.assertIn("stopped before the last page", process.communicate(timeout=60)[1])

    def test_evaluation_files_of_any_name_and_items_without_words_are_taken(self):
        qa, findings = os.fsencode(self.folder / "q") + b"\xE9.jsonl", self.folder / "findings.jsonl"
        with open(qa, "w") as file:
            file.write('{"id": "1", "question": "!?", "answers": ["x"]}\n{"id": "2", "question": "Page 3 tells how dpkg unpacks package number 3", "answers": ["x"]}\n')
        result = subprocess.run([program, "filter", "--pages", self.pages, "--qa", qa, "--findings", findings], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("contamination: 1 of 1 evaluation items stand in 1 pages", result.stderr)
        self.assertIn("1 evaluation items without a letter or digit cannot be searched for", result.stderr)
        self.assertEqual(json.loads(findings.read_text())["item"], "q\\xE9.jsonl 2")

    def test_pages_of_a_pipe_are_read_once_and_refused_where_they_are_needed_twice(self):
        terms, kept = self.folder / "terms.txt", self.folder / "kept.jsonl"
        terms.write_text("dpkg\n")

        def filtered(*options):
            command = [program, "filter", "--pages", "/dev/stdin", "--out", kept, *options]
            return subprocess.run(list(map(str, command)), input=self.pages.read_text(), capture_output=True, text=True)

        self.assertRefused(filtered(), "/dev/stdin more than once, as the search for copies needs", "write them to a file or leave the search out (dapt --duplicates off)")
        self.assertRefused(filtered("--duplicates", "off", "--scorer", "ngram", "--terms", terms), "/dev/stdin more than once, as --scorer ngram needs", "write them to a file")
        self.assertEqual(filtered("--duplicates", "off", "--scorer", "field", "--min-score", 0.5).returncode, 0)
        self.assertEqual(len(kept.read_text().splitlines()), 6)

    def test_filter_scores_the_lines_of_a_page_by_a_classifier(self):
        recorded, classifier, kept = source / "tests/parity", self.folder / "classifier", self.folder / "kept.jsonl"
        classifier.mkdir()
        for name, file in [("config.json", "encoders/bert/config.json"), ("model.safetensors", "encoders/bert/model.safetensors"), ("tokenizer.json", "text/bert.tokenizer.json")]:
            (classifier / name).symlink_to(recorded / file)
        expected = json.loads((recorded / "encoders/bert/expected.json").read_text())
        good = [logits[2] for logits in expected["logits"]]
        lines = [[3], [4, 5], list(range(1, len(good)))]  # of each page
        self.write_pages([{"work": "w", "page": i, "text": "\n".join(expected["lines"][line] for line in page)} for i, page in enumerate(lines)])
        filtered = ("filter", "--pages", self.pages, "--scorer", "classifier", "--min-score", -100, "--out", kept)
        for rule, of_page in [("mean", lambda scores: sum(scores) / len(scores)), ("max", max)]:
            result = run(*filtered, "--classifier", classifier, "--classifier-label", "good", "--line-rule", rule)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(f"label good, {rule} of the lines", result.stderr)
            found = [json.loads(line)["score"] for line in kept.read_text().splitlines()]
            self.assertEqual(len(found), len(lines))
            for score, page in zip(found, lines):
                self.assertAlmostEqual(score, of_page([good[line] for line in page]), delta=1e-5)
        self.assertRefused(run(*filtered), "needs --classifier")
        self.assertRefused(run(*filtered, "--classifier", classifier), "has 3 labels: poor, fair, good")
        self.assertRefused(run(*filtered, "--classifier", classifier, "--classifier-label", "bad"), "no label")
        self.assertRefused(run("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 0, "--line-rule", "max"), "--line-rule has no effect with --scorer field")

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

    def test_bad_input_is_skipped_or_mended_with_counts(self):
        out = self.folder / "out.jsonl"
        self.pages.write_bytes(b'\xef\xbb\xbf{"text": "good"}\r\n{"text": 5}\nno json\n{"text": "\xff"}\n{"text": " "}\n{"text": "a", "text": "b"}\n')
        result = run("filter", "--pages", self.pages, "--on-bad-input", "skip", "--out", out)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("read: 1 pages, 96 bytes, 1 empty, 1 skipped for their encoding, 2 skipped for their JSON, 1 skipped for their fields\n", result.stderr)
        self.assertEqual([json.loads(line)["text"] for line in out.read_text().splitlines()], ["good"])
        self.pages.write_bytes(b'{"text": "good"}\n{"text": "caf\xe9"}\n')
        result = run("filter", "--pages", self.pages, "--on-bad-input", "replace", "--out", out)
        self.assertIn("read: 2 pages, 34 bytes, 1 mended with U+FFFD\n", result.stderr)
        self.assertEqual(json.loads(out.read_text().splitlines()[1])["text"], "caf\ufffd")

    def test_no_page_after_the_filter_is_an_error(self):
        self.assertRefused(run("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 2), "none of 12 pages")

    def test_bos_is_put_before_documents_as_the_user_says(self):
        base = self.folder / "base"
        base.mkdir()
        write_model(base, source)
        settings = json.loads((base / "tokenizer_config.json").read_text()) if (base / "tokenizer_config.json").exists() else {}
        pages = self.folder / "few.jsonl"
        pages.write_text("".join(json.dumps({"work": "w", "page": i, "text": "dpkg unpacks it"}) + "\n" for i in range(4)))
        for adds in (False, True):
            (base / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "add_bos_token": adds}))
            for options, between in (((), 2 if adds else 1), (("--bos",), 2), (("--no-bos",), 1), (("--bos", "--no-eos"), 1), (("--no-bos", "--no-eos"), 0)):
                result = run("tokenize", "--model", base, "--pages", pages, "--packed", "--max-length", 64, *options)
                self.assertEqual(result.returncode, 0, result.stderr)
                ids = json.loads(result.stdout)["ids"]
                text = "".join("." if id else "0" for id in ids).strip("0")  # without padding
                self.assertEqual(set(re.findall("0+", text)), {"0" * between} - {""}, (adds, options))
        self.assertRefused(run("tokenize", "--model", base, "--pages", self.pages, "--no-eos"), "without --packed there is no use for --eos and --no-eos")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
