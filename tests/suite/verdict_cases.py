"""Two methods whose costs are planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from suite.compare.sides import CostTable, sides
from suite.compare.verdict import Verdict, judge
from suite.results.frame import Records, build_records

KFAC, ADAMW = (60, 66, 63, 58, 61), (200, 210, 190, 205, 215)


Sown = Callable[..., Any]


def verdict(records: Records, a: str = "kfac", b: str = "adamw", **options: Any) -> Verdict:
    (problem,) = records.problems
    pair = sides(records, problem)
    return judge(CostTable(records), pair[a], pair[b], **options)


def built(*planted: Any, timings: Any = None) -> Records:
    return build_records([one.run for one in planted], [], timings)
