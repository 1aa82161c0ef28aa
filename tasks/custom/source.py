"""A user's Python file: its execution, and quotations of it in messages."""

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


DIGITS = 12  # shown digits of the SHA-256 of a file's content


class BrokenFileError(ValueError):
    """A user's file lacks a part of a task; the message has place, rule and example."""


class Source:
    """The text of a file, and the lines of its names.

    Raises:
        BrokenFileError: there is no such file, or it is no Python.
    """

    def __init__(self, path: Path, typed: str) -> None:
        self.path = path
        self.typed = typed
        self.lines: dict[str, int] = {}
        if not path.is_file():
            raise BrokenFileError(
                f"task.file={typed}: there is no such file; looked for {path}\n{_expected('file')}"
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
        """Raise BrokenFileError about a name, with its line and the expected value."""
        number = line or self.line_of(name)
        place = f"{self.typed}, line {number}" if number else self.typed
        message = [f"{place}: {what}", self._quoted(number), _expected(name)]
        raise BrokenFileError("\n".join(filter(None, message))) from cause

    def line_of(self, name: str) -> int | None:
        """The line that last binds a top-level name, or the capitalised name; None without one."""
        return self.lines.get(name) or self.lines.get(name.capitalize())

    def line_of_function(self, function: Any) -> int | None:
        """The line in which a function of this file begins; None for other functions."""
        code = getattr(function, "__code__", None)
        return (
            code.co_firstlineno if code is not None and code.co_filename == str(self.path) else None
        )

    @contextmanager
    def blaming(self, what: str, name: str) -> Iterator[None]:
        """Turn an exception inside into a message that shows the deepest line of this file."""
        try:
            yield
        except BrokenFileError:
            raise
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame.lineno for frame in frames if frame.filename == str(self.path)]
            kind = type(error).__name__
            message = f"{kind}: {error}" if str(error) else kind
            if isinstance(error, FileNotFoundError):
                message += (
                    f"; paths are relative to {Path.cwd()}, and Path(__file__).parent is the "
                    "folder of this file"
                )
            line = own[-1] if own else None
            self.refuse(f"{what} raised {message}", name, line=line, cause=error)

    def _quoted(self, number: int | None) -> str:
        lines = self.text.splitlines()
        return (
            f"  {number} | {lines[number - 1].rstrip()}" if number and number <= len(lines) else ""
        )


def open_source(file: str) -> Source:
    """The source of a file, whose path is relative to the current directory."""
    return Source(Path(file).expanduser().resolve(), file)


def names_of(source: Source) -> dict[str, Any]:
    """The names of the file after its execution; the same file is executed once a process."""
    return _executed(source.path, source.digest, source.typed)


@lru_cache(maxsize=1)
def _executed(path: Path, digest: str, typed: str) -> dict[str, Any]:
    """Execute a file as a module that is not `__main__`, with its folder on the path."""
    source = Source(path, typed)
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
    """Seed the global generators of torch, numpy and Python, and restore them afterwards."""
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
    """The line that last binds each top-level name."""
    lines: dict[str, int] = {}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            lines[statement.name] = statement.lineno
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            lines |= {alias.asname or alias.name: statement.lineno for alias in statement.names}
        else:
            stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
            lines |= {node.id: node.lineno for node in stored if isinstance(node.ctx, ast.Store)}
    return lines


def _expected(name: str) -> str:
    what, example = EXPECTED[name]
    return "\n".join(
        [
            f"Expected: {what}, for example",
            *(f"    {line}".rstrip() for line in example.splitlines()),
        ]
    )
