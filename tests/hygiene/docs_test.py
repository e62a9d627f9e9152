"""Code in the docs is the compiled examples' code, links between pages lead somewhere, and the tests that they name are there.

usage: docs_test.py SOURCE_DIR [BUILD_DIR]          compares
       docs_test.py SOURCE_DIR --write              brings the code blocks up to date

A block  <!-- from examples/NAME.cpp [marker] -->  is followed by a fenced block that holds the lines between the two "// [marker]" of that file.
"""
import pathlib
import re
import sys

source = pathlib.Path(sys.argv[1])
write = "--write" in sys.argv
block = re.compile(r"<!-- from (?P<file>\S+) \[(?P<marker>\w+)\] -->\n```cpp\n(?P<code>.*?)```", re.S)
link = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
failures, blocks = [], 0


def example(match):
    lines = (source / match["file"]).read_text(encoding="utf-8").splitlines()
    marks = [i for i, line in enumerate(lines) if line.strip() == f"// [{match['marker']}]"]
    if len(marks) != 2:
        failures.append(f"{match['file']}: {len(marks)} lines with // [{match['marker']}], expected 2")
        return match["code"]
    code = lines[marks[0] + 1:marks[1]]
    indent = min((len(line) - len(line.lstrip()) for line in code if line.strip()), default=0)
    return "".join(line[indent:] + "\n" for line in code)


for page in [source / "README.md", *sorted((source / "docs").rglob("*.md"))]:
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(source)

    def replaced(match):
        global blocks
        blocks += 1
        code = example(match)
        if code != match["code"] and not write:
            failures.append(f"{name}: the code of {match['file']} [{match['marker']}] has changed; run tests/hygiene/docs_test.py . --write")
        return match[0].replace(match["code"], code) if match["code"] else match[0].replace("```cpp\n```", "```cpp\n" + code + "```")

    new = block.sub(replaced, text)
    if write and new != text:
        page.write_text(new, encoding="utf-8")
    if text.count("<!-- from ") != len(block.findall(text)):
        failures.append(f"{name}: a <!-- from ... --> line without its code block")
    for target in link.findall(re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)):
        if "://" not in target and not (page.parent / target).exists():
            failures.append(f"{name}: link to {target}, which is not there")

tests = "\n".join(file.read_text(encoding="utf-8") for file in (source / "tests").rglob("*_test.*"))
named = re.findall(r'"([^"\n]+)"', (source / "docs/explanation/known-faults.md").read_text(encoding="utf-8").partition("## Packing")[2])
for name in named:
    if f'"{name}"' not in tests and f"def {name}(" not in tests:
        failures.append(f"docs/explanation/known-faults.md: no test is called \"{name}\"")

if blocks == 0:
    failures.append("no code block found: the pattern or the pages have changed")
print("\n".join(failures) or f"{blocks} code blocks are the examples' code, all links lead somewhere, {len(named)} tests are there")
sys.exit(1 if failures else 0)
