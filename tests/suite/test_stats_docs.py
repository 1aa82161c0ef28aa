"""docs/reference/statistics.md.

Its example prints what stands below it, and every public statistic is explained.
"""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

from suite import paths, stats

PAGE = paths.ROOT / "docs" / "reference" / "statistics.md"
RESULTS = {
    "Friedman",
    "GoodShare",
    "Improvement",
    "Nemenyi",
    "RateSensitivity",
    "Ratio",
    "SeedSensitivity",
}
HELPERS = {"best_index", "apart_from_best", "interval_of", "intervals_of"}


def test_the_example_prints_what_the_page_says() -> None:
    match = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert match
    printed, names = io.StringIO(), dict[str, Any]()
    with contextlib.redirect_stdout(printed):
        exec(match[1], names)
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    assert lines == match[2].splitlines()


def test_every_public_statistic_is_on_the_page() -> None:
    text = PAGE.read_text()
    missing = {name for name in stats.__all__ if f"`{name}" not in text}
    assert missing <= RESULTS | HELPERS
