"""Sections of docs/explanation/performance.md that a bench writes, between two lines of its own."""
import pathlib
import sys

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs/explanation/performance.md"


def write_section(begin, end, text):
    """Puts `text` between the lines `begin` and `end`, which must be there."""
    before, _, rest = PAGE.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        sys.exit(f"{PAGE}: no line {begin}, and after it {end}")
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
