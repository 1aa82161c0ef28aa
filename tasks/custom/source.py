"""A user's Python file: run once, and quoted in every complaint about it."""

from __future__ import annotations

import ast
import hashlib
import random
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch

EXPECTED: Mapping[str, tuple[str, str]] = {
    "file": (
        "a Python file that names a model, a loss and data",
        "model = lambda: nn.Linear(20, 3)\nloss = nn.CrossEntropyLoss()\ndata = inputs, targets",
    ),
    "model": (
        "a function without arguments, or a class, that gives a new nn.Module with trainable "
        "parameters",
        "def model():\n    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3))",
    ),
    "outputs": (
        "one tensor, with a row for each example, from model(inputs)",
        "def forward(self, inputs):\n    states, _ = self.lstm(inputs)\n    return "
        "self.head(states[:, -1])",
    ),
    "loss": (
        "a torch loss, or a function of (outputs, targets), that gives one number to be minimised",
        "loss = nn.CrossEntropyLoss()",
    ),
    "data": (
        "two tensors of equal length, the examples along the first dimension, or a dictionary of "
        "such pairs",
        'data = inputs, targets\ndata = {"train": (x, y), "val": (x2, y2), "test": (x3, y3)}',
    ),
    "metric": (
        "a function of (outputs, targets) that gives one number, or one for each example, and "
        "which way is better",
        "def metric(outputs, targets):\n    return outputs.argmax(1) == targets\n\ndirection = "
        '"max"',
    ),
    "metrics": (
        "functions of (outputs, targets) by name, that which judges first",
        'metrics = {"accuracy": accuracy}',
    ),
    "direction": ("which values of the metric are better", 'direction = "max"'),
    "batch_size": ("a whole number above 0, or None for the full batch", "batch_size = 64"),
    "steps": (
        "the length of a run on the command line",
        "python -m suite task=custom task.file=FILE steps=500",
    ),
}


DIGITS = 12  # of the SHA-256 of a file's content: reports show them


class BrokenFileError(ValueError):
    """A user's file does not give what a task is made of.

    The message shows where, what is expected and an example.
    """


class Source:
    """The text of a file and where its names are defined.

    Raises:
        BrokenFileError: there is no such file, or it is no Python.
    """

    def __init__(self, path: Path, given: str) -> None:
        self.path = path
        self.given = given
        self.lines: dict[str, int] = {}
        if not path.is_file():
            raise BrokenFileError(
                f"task.file={given}: there is no such file; looked for {path}\n{_expected('file')}"
            )
        self.text = path.read_text(encoding="utf-8", errors="replace")
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]
        try:
            self.lines = _line_of_names(ast.parse(self.text, str(path)))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            self.refuse(f"this is no Python: {getattr(error, 'msg', error)}", "file", line=line)

    def refuse(
        self, what: str, name: str, *, line: int | None = None, cause: BaseException | None = None
    ) -> NoReturn:
        """Raise BrokenFileError about a name.

        The line it is defined in unless another is given, and what is expected.
        """
        number = line or self.line_of(name)
        place = f"{self.given}, line {number}" if number else self.given
        said = [f"{place}: {what}", self._quoted(number), _expected(name)]
        raise BrokenFileError("\n".join(filter(None, said))) from cause

    def line_of(self, name: str) -> int | None:
        """The line in which a top-level name, or the same in capitals, was last bound.

        None where it never is.
        """
        return self.lines.get(name) or self.lines.get(name.capitalize())

    def line_of_function(self, function: Any) -> int | None:
        """The line in which a function of this file begins; None for one that is defined elsewhere."""
        code = getattr(function, "__code__", None)
        return (
            code.co_firstlineno if code is not None and code.co_filename == str(self.path) else None
        )

    @contextmanager
    def blaming(self, what: str, name: str) -> Iterator[None]:
        """Turn whatever is raised inside into a complaint that shows the deepest line of this file that took part."""
        try:
            yield
        except BrokenFileError:
            raise
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame.lineno for frame in frames if frame.filename == str(self.path)]
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if isinstance(error, FileNotFoundError):
                said += f"; paths are relative to {Path.cwd()}, and Path(__file__).parent is the folder of this file"
            self.refuse(f"{what} raised {said}", name, line=own[-1] if own else None, cause=error)

    def _quoted(self, number: int | None) -> str:
        lines = self.text.splitlines()
        return (
            f"  {number} | {lines[number - 1].rstrip()}" if number and number <= len(lines) else ""
        )


def open_source(file: str) -> Source:
    """The source of a file, whose path is relative to the current directory."""
    return Source(Path(file).expanduser().resolve(), file)


def names_of(source: Source) -> dict[str, Any]:
    """What the file's names stand for once it has been run; the same file is run once a process."""
    return _executed(source.path, source.digest, source.given)


@lru_cache(maxsize=1)
def _executed(path: Path, digest: str, given: str) -> dict[str, Any]:
    """Run a file as a module.

    `if __name__ == "__main__"` is not entered, modules that lie beside it are found.
    """
    source = Source(path, given)
    module = ModuleType(f"{path.stem}_{digest[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look a class's module up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    with source.blaming("running the file", "file"), seeded(0):
        exec(compile(source.text, str(path), "exec"), module.__dict__)
    return module.__dict__


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, so that data and weights are the same in every process."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's code may draw from it
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _line_of_names(tree: ast.Module) -> dict[str, int]:
    """Where each top-level name was last bound."""
    found: dict[str, int] = {}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found[statement.name] = statement.lineno
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name: statement.lineno for alias in statement.names}
        else:
            stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
            found |= {node.id: node.lineno for node in stored if isinstance(node.ctx, ast.Store)}
    return found


def _expected(name: str) -> str:
    what, example = EXPECTED[name]
    return "\n".join(
        [
            f"Expected: {what}, for example",
            *(f"    {line}".rstrip() for line in example.splitlines()),
        ]
    )
