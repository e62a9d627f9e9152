"""Has every clause of every concept header its case in tests/compile_fail, and is every case a clause?"""
import pathlib
import re
import sys

source = pathlib.Path(sys.argv[1])
clauses, cases = set(), set()
for path in (source / "include/dapt/concepts").glob("*.hpp"):
    clauses |= set(re.findall(r'"(dapt::\w+) \[(\w+)\]', path.read_text()))
for path in (source / "tests/compile_fail").glob("*.cpp"):
    text = path.read_text()
    concept = re.search(r"^// (dapt::\w+)", text, re.M)[1]
    cases |= {(concept, tag) for tag in re.findall(r"(?:ifn?def|defined\()\s*BREAK_(\w+)", text)}

for concept, tag in sorted(clauses - cases):
    print(f"{concept} [{tag}] has no case in tests/compile_fail")
for concept, tag in sorted(cases - clauses):
    print(f"tests/compile_fail breaks {concept} [{tag}], which is no clause of a concept header")
print(f"{len(clauses)} clauses")
sys.exit(clauses != cases or not clauses)
