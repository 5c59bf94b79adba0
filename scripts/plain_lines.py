"""How plain the lines are: what makes code dense, counted per file and for the whole package, and the aims for it.

    python scripts/plain_lines.py                    the table of the package, and the aims it misses
    python scripts/plain_lines.py --where            each place, to go and look
    python scripts/plain_lines.py src/stepcredit/flow tests

Code lines are not blank and hold more than a comment or a docstring. What is counted:

    nested        comprehensions inside comprehensions, per 1,000 code lines; two `for` clauses of one are not nested
    pairs         assignments of unrelated things in one line (`a, b = x, y`), per 1,000 code lines; unpacking a call's
                  result and exchanging (`a, b = b, a`) are none
    vague         assigned names that say that a thing was found, not what it is, in % of all assigned names
    comments      lines with a comment for people, per 100 code lines; `noqa`, `type: ignore` and the like are for tools
    p95, longest  code lines of functions; no docstrings and comments, which are wanted
    largest       lines of the largest file, everything included
    duplication   windows of eight lines that occurred before, in % of code lines; no imports, no lone brackets
    annotated     functions with a type on every argument and on what they return, in %
"""

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "stepcredit"
WINDOW = 8  # lines that make a repetition
VAGUE = frozenset(
    (
        *("found", "told", "mine", "kept", "given", "got", "said", "asked", "shown", "odd", "wrong", "some", "other"),
        *("others", "ours", "theirs", "rest", "taken", "data", "info", "tmp", "temp", "res", "ret", "val", "obj"),
        *("thing", "things", "stuff", "this", "that"),
    )
)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NO_CODE = frozenset(
    (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
)
DIRECTIVE = re.compile(r"#\s*(noqa|type:|pyright:|pragma:|fmt:|ruff:|!)")


@dataclass(frozen=True)
class Aim:
    """What a measure has to be, as in `Aim(most=29)`."""

    least: float = -inf
    most: float = inf

    def __str__(self) -> str:
        return f"at least {self.least:g}" if self.most == inf else f"at most {self.most:g}"


AIMS = {
    "nested": Aim(most=1.0),
    "pairs": Aim(most=2.0),
    "vague": Aim(most=0.8),
    "comments": Aim(least=5.0),
    "p95": Aim(most=29),
    "longest": Aim(most=93),
    "largest": Aim(most=435),
    "duplication": Aim(most=0.5),
    "annotated": Aim(least=100.0),
}


@dataclass
class Lines:
    """Counts of one file; `places` says where, as `path:line what`, and `texts` is what can be repeated elsewhere.

    Of the two lines `def f(x: int) -> int:` and `return x`: `Lines(length=2, code=2, functions=[2], annotated=1)`.
    """

    length: int = 0
    code: int = 0
    comments: int = 0
    functions: list[int] = field(default_factory=list)
    annotated: int = 0
    nested: int = 0
    pairs: int = 0
    names: int = 0
    vague: int = 0
    texts: list[tuple[int, str]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


def read(path: Path) -> Lines:
    """The counts of one file."""
    return read_text(path.read_text(encoding="utf-8"), path)


def read_text(text: str, path: Path) -> Lines:
    """The counts of a file's text; `path` is what places are called."""
    tree = ast.parse(text)
    rows = text.splitlines()
    commented, occupied = occupied_lines(text)
    code = {number for number in occupied - docstring_lines(tree) if rows[number - 1].strip()}
    imported = import_lines(tree)
    lines = Lines(length=len(rows), code=len(code), comments=len(commented))
    for number in sorted(code - imported):
        # Without its indentation: a block that was copied into a loop is still a copy.
        row = rows[number - 1].strip()
        if re.search(r"\w", row):
            lines.texts.append((number, row))
    classes = class_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            span = range(node.lineno, last_line(node) + 1)
            lines.functions.append(len(code.intersection(span)))
            lines.annotated += is_annotated(node)
        elif isinstance(node, COMPREHENSIONS) and holds_another(node):
            lines.nested += 1
            lines.places.append(f"{path}:{node.lineno} comprehension in a comprehension")
        elif isinstance(node, ast.Assign) and any(is_pair(target, node.value) for target in node.targets):
            lines.pairs += 1
            lines.places.append(f"{path}:{node.lineno} two things in one line")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            lines.names += 1
            if node.id in VAGUE - classes:
                lines.vague += 1
                lines.places.append(f"{path}:{node.lineno} vague name {node.id}")
    return lines


def occupied_lines(text: str) -> tuple[set[int], set[int]]:
    """Numbers of the lines with a comment for people, and of those with anything but comments."""
    commented: set[int] = set()
    occupied: set[int] = set()
    # Of the tokens, not of the text: a "#" inside a string is no comment, and ast drops those that are.
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not DIRECTIVE.match(token.string):
            commented.add(token.start[0])
        if token.type not in NO_CODE:
            occupied.update(range(token.start[0], token.end[0] + 1))
    return commented, occupied


def docstring_lines(tree: ast.Module) -> set[int]:
    """Of modules, classes and functions, and of attributes: every expression that is nothing but a string."""
    numbers: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            numbers.update(range(node.lineno, last_line(node) + 1))
    return numbers


def import_lines(tree: ast.Module) -> set[int]:
    """Of every import, also of those inside functions."""
    numbers: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            numbers.update(range(node.lineno, last_line(node) + 1))
    return numbers


def last_line(node: ast.stmt) -> int:
    # ast leaves the end open for trees that were made by hand; these were parsed.
    return node.end_lineno or node.lineno


def class_names(tree: ast.Module) -> set[str]:
    """What variables may be called after the classes that a file defines or imports: `thing` and `things` for Thing."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
    # By their capital: `from world import draw` gives no leave to call a variable after it.
    classes = {name.lower() for name in names if name[:1].isupper()}
    return classes | {f"{name}s" for name in classes}


def is_annotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a type stands at everything that goes in or comes out."""
    described = function.args
    # self and cls are known by their place; that is what linters ask too.
    arguments = [*described.posonlyargs, *described.args, *described.kwonlyargs, described.vararg, described.kwarg]
    typed = (
        argument is None or argument.arg in ("self", "cls") or argument.annotation is not None for argument in arguments
    )
    return function.returns is not None and all(typed)


def holds_another(comprehension: ast.expr) -> bool:
    inside = (node for node in ast.walk(comprehension) if node is not comprehension)
    return any(isinstance(node, COMPREHENSIONS) for node in inside)


def is_pair(target: ast.expr, value: ast.expr) -> bool:
    """Whether several things are given to several names at once, other than in exchange."""
    sequences = (ast.Tuple, ast.List)
    if not isinstance(target, sequences) or not isinstance(value, sequences):
        return False
    # As text, because the same name is a different node on either side.
    receivers = sorted(ast.unparse(element) for element in target.elts)
    return receivers != sorted(ast.unparse(element) for element in value.elts)


def gather(roots: Iterable[Path]) -> dict[Path, Lines]:
    """The counts of every Python file below these folders."""
    paths: list[Path] = []
    for root in roots:
        paths.extend([root] if root.is_file() else sorted(root.rglob("*.py")))
    return {path: read(path) for path in paths}


def repetitions(files: dict[Path, Lines]) -> Iterator[str]:
    """Every window of lines that occurred before, in the same file or in another, as `path:line what`."""
    first: dict[tuple[str, ...], str] = {}
    for path, lines in files.items():
        for start in range(len(lines.texts) - WINDOW + 1):
            window = lines.texts[start : start + WINDOW]
            here = f"{path}:{window[0][0]}"
            before = first.setdefault(tuple(text for _, text in window), here)
            if before != here:
                yield f"{here} repeats {before}"


def together(files: Iterable[Lines]) -> Lines:
    """All files as one; `length` is that of the longest."""
    whole = Lines()
    for lines in files:
        for count in fields(Lines):  # numbers and lists alike: both know +
            setattr(whole, count.name, getattr(whole, count.name) + getattr(lines, count.name))
    whole.length = max((lines.length for lines in files), default=0)
    return whole


def measure(files: dict[Path, Lines]) -> dict[str, float]:
    """The measures of `AIMS` for these files."""
    whole = together(files.values())
    code = max(whole.code, 1)
    functions = sorted(whole.functions) or [0]
    return {
        # Per line and not per file, so that a measure is the same however the code is cut into files.
        "nested": 1000 * whole.nested / code,
        "pairs": 1000 * whole.pairs / code,
        "vague": 100 * whole.vague / max(whole.names, 1),
        "comments": 100 * whole.comments / code,
        "p95": functions[min(int(0.95 * len(functions)), len(functions) - 1)],
        "longest": functions[-1],
        "largest": whole.length,
        "duplication": 100 * sum(1 for _ in repetitions(files)) / code,
        "annotated": 100 * whole.annotated / len(whole.functions) if whole.functions else 100.0,
    }


def missed(measures: dict[str, float]) -> list[str]:
    """What is not as it is aimed to be, a sentence each."""
    sentences = []
    for name, aim in AIMS.items():
        if not aim.least <= measures[name] <= aim.most:
            sentences.append(f"{name} is {measures[name]:.2f}, wanted {aim}")
    return sentences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="*", type=Path, default=[PACKAGE])
    parser.add_argument("--where", action="store_true", help="list every place")
    arguments = parser.parse_args()
    files = gather(arguments.roots)
    if arguments.where:
        for lines in files.values():
            print(*lines.places, sep="\n", end="\n" if lines.places else "")
        print(*repetitions(files), sep="\n")
        return
    print(f"{'':<44}" + "".join(f"{name:>{len(name) + 3}}" for name in AIMS))
    for path, lines in files.items():
        measures = measure({path: lines})
        # A file of a few lines, such as one that gathers a room's names, has nothing to explain.
        if lines.code > 20 and missed(measures):
            print(row(str(path)[-43:], measures))
    everything = measure(files)
    print(row("everything", everything))
    print(*missed(everything), sep="\n")


def row(name: str, measures: dict[str, float]) -> str:
    """One line of the table."""
    return f"{name:<44}" + "".join(f"{measures[measure]:>{len(measure) + 3}.1f}" for measure in AIMS)


if __name__ == "__main__":
    main()
