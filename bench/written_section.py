"""Sections of documentation pages that a bench writes, between two lines of its own."""
import pathlib
import sys

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


def write_section(page, begin, end, text):
    """Puts `text` between the lines `begin` and `end` of a page below docs/, which must be there."""
    file = DOCS / page
    before, _, rest = file.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        sys.exit(f"{file}: no line {begin}, and after it {end}")
    file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
