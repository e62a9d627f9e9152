"""Is every public header in the file set and in the umbrella?

    headers_test.py SOURCE_DIR [BUILD_DIR]   says what is missing
    headers_test.py SOURCE_DIR --write       writes cmake/dapt_headers.cmake and include/dapt/dapt.hpp
"""
import pathlib
import sys

source = pathlib.Path(sys.argv[1])
headers = sorted(str(path.relative_to(source / "include")) for path in (source / "include").rglob("*.hpp"))
if "dapt/dapt.hpp" not in headers:
    headers = sorted(headers + ["dapt/dapt.hpp"])

# The umbrella leaves out what a program does not need: names without definitions, what tests one's own policies, and several processes, which need Gloo's headers.
in_umbrella = [name for name in headers if name not in ("dapt/dapt.hpp", "dapt/fwd.hpp") and not name.startswith(("dapt/testing/", "dapt/dist/"))]

wanted = {
    source / "cmake/dapt_headers.cmake": "\n".join(
        ["# The public headers. Written by tests/hygiene/headers_test.py --write, which is also the test that none is missing.", "set(DAPT_HEADERS"]
        + [f"  include/{name}" for name in headers]
        + [")"]
    )
    + "\n",
    source / "include/dapt/dapt.hpp": "\n".join(
        ["// All of dapt but dapt/testing/, dapt/dist/ and dapt/fwd.hpp. Narrow headers compile faster: include those in programs of your own.", "#pragma once", ""]
        + [f"#include <{name}>" for name in in_umbrella]
    )
    + "\n",
}

failed = False
for path, text in wanted.items():
    found = path.read_text() if path.exists() else ""
    if found == text:
        continue
    if sys.argv[2:] == ["--write"]:
        path.write_text(text)
        print(f"wrote {path}")
        continue
    failed = True
    have, want = set(found.splitlines()), set(text.splitlines())
    print(f"{path}: run {sys.argv[0]} {source} --write")
    print("\n".join([f"  missing: {line}" for line in sorted(want - have)] + [f"  left over: {line}" for line in sorted(have - want)]))
sys.exit(failed)
