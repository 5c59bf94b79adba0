"""How plain the lines are: what makes code dense, counted per file and for the whole package.

    python scripts/plain_lines.py                    the table of the package
    python scripts/plain_lines.py --where            each place, to go and look
    python scripts/plain_lines.py src/stepcredit/flow tests

Code lines are not blank and hold more than a comment or a docstring. Counted per 1,000 of them: comprehensions inside
comprehensions, and assignments of unrelated things in one line (`a, b = x, y`). Vague names are the share of assigned
names that say that a thing was found, not what it is. Comments are counted per 100 code lines.
"""

import argparse
import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

VAGUE = frozenset(
    (
        *("found", "told", "mine", "kept", "given", "got", "said", "asked", "shown", "odd", "wrong", "some", "other"),
        *("others", "ours", "theirs", "rest", "taken", "data", "info", "tmp", "temp", "res", "ret", "val", "obj"),
        *("thing", "things", "stuff", "this", "that"),
    )
)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
PACKAGE = Path(__file__).resolve().parent.parent / "src" / "stepcredit"


@dataclass
class Lines:
    """Counts of one file, or of several together; `places` says where, as `path:line what`."""

    code: int = 0
    comments: int = 0
    functions: list[int] = field(default_factory=list)
    nested: int = 0
    pairs: int = 0
    names: int = 0
    vague: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, other: "Lines") -> None:
        for name in ("code", "comments", "functions", "nested", "pairs", "names", "vague", "places"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def read(path: Path) -> Lines:
    """The counts of one file."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = Lines()
    documentation = set(docstring_lines(tree))
    commented: set[int] = set()
    coded: set[int] = set()
    skipped = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            commented.add(token.start[0])
        elif token.type not in skipped:
            coded.update(range(token.start[0], token.end[0] + 1))
    lines.code = len(coded - documentation)
    lines.comments = len(commented)
    for node in ast.walk(tree):
        count(node, path, lines)
    return lines


def docstring_lines(tree: ast.Module) -> Iterator[int]:
    """Of modules, classes and functions, and of attributes: every expression that is nothing but a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def count(node: ast.AST, path: Path, lines: Lines) -> None:
    """Add what one node of the tree shows."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        lines.functions.append((node.end_lineno or node.lineno) - node.lineno + 1)
    if isinstance(node, COMPREHENSIONS):
        inside = [child for child in ast.walk(node) if child is not node and isinstance(child, COMPREHENSIONS)]
        if inside:
            lines.nested += 1
            lines.places.append(f"{path}:{node.lineno} comprehension in a comprehension")
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            lines.pairs += 1
            lines.places.append(f"{path}:{node.lineno} two things in one line")
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        lines.names += 1
        if node.id in VAGUE:
            lines.vague += 1
            lines.places.append(f"{path}:{node.lineno} vague name {node.id}")


def gather(roots: list[Path]) -> dict[Path, Lines]:
    """The counts of every Python file below these folders."""
    files = [path for root in roots for path in ([root] if root.is_file() else sorted(root.rglob("*.py")))]
    return {path: read(path) for path in files}


def total(files: dict[Path, Lines]) -> Lines:
    """All files as one."""
    whole = Lines()
    for lines in files.values():
        whole.add(lines)
    return whole


def row(name: str, lines: Lines) -> str:
    """One line of the table."""
    code = max(lines.code, 1)
    functions = sorted(lines.functions) or [0]
    ninety_fifth = functions[min(int(0.95 * len(functions)), len(functions) - 1)]
    return (
        f"{name:<44}{lines.code:>7}{1000 * lines.nested / code:>8.1f}{1000 * lines.pairs / code:>8.1f}"
        f"{100 * lines.vague / max(lines.names, 1):>8.1f}{100 * lines.comments / code:>10.1f}"
        f"{ninety_fifth:>8}{functions[-1]:>9}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="*", type=Path, default=[PACKAGE])
    parser.add_argument("--where", action="store_true", help="list every place")
    arguments = parser.parse_args()
    files = gather(arguments.roots)
    if arguments.where:
        print("\n".join(place for lines in files.values() for place in lines.places))
        return
    print(f"{'':<44}{'code':>7}{'nested':>8}{'pairs':>8}{'vague %':>8}{'comments':>10}{'p95':>8}{'longest':>9}")
    for path, lines in files.items():
        if lines.nested or lines.pairs or lines.vague or lines.comments * 20 < lines.code:
            print(row(str(path)[-43:], lines))
    print(row("everything", total(files)))


if __name__ == "__main__":
    main()
