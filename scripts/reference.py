"""`python -m scripts.reference` writes the tables of the documentation that say what the code says.

With `--check` it only compares.

A page marks where: `<!-- table: NAME -->`, then what this program wrote, then `<!-- end -->`. What a table says is
read from the code; what the code does not say of itself stands here, and has to be complete: a parameter, a field
or a key without a meaning ends the program with its name.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import (
    attack_table,
    chaos_table,
    failure_matrix,
    parameter_tests,
    recovery_tables,
    reference_cli,
    reference_tables,
    reference_verify,
    results_table,
    scaling_luck,
    scaling_tables,
    search_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
TABLES: dict[str, Callable[[], str]] = {
    **reference_tables.TABLES,
    **reference_cli.TABLES,
    **results_table.TABLES,
    **scaling_tables.TABLES,
    **failure_matrix.TABLES,
    **parameter_tests.TABLES,
    **attack_table.TABLES,
    **scaling_luck.TABLES,
    **recovery_tables.TABLES,
    **reference_verify.TABLES,
    **chaos_table.TABLES,
    **search_table.TABLES,
}
_PLACE = re.compile(r"(<!-- table: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def rewritten(text: str) -> str:
    """A page with its tables as they are now. Raises KeyError where it names a table that does not exist."""

    def table(match: re.Match[str]) -> str:
        content = TABLES[match["name"]]()
        return f"{match[1]}{content.strip()}\n{match[3]}" if content.strip() else f"{match[1]}{match[3]}"

    return _PLACE.sub(table, text)


def main() -> int:
    """Write, or with --check name what is out of date and return 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 where a page is out of date")
    only_check = parser.parse_args().check
    stale = [page for page in pages() if rewritten(text := page.read_text("utf-8")) != text]
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'out of date' if only_check else 'written'}")
        if not only_check:
            page.write_text(rewritten(page.read_text("utf-8")), "utf-8")
    return int(only_check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
