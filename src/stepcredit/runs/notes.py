"""What is not as it should be in a run that can be read all the same: told wherever its numbers are shown. No torch."""

from collections.abc import Collection, Sequence
from typing import Any

from stepcredit.files.text import resume_line
from stepcredit.runs import entries
from stepcredit.runs.reader import RunReader

_MOST = 8  # numbers in a sentence


def notes(run: RunReader) -> list[str]:
    """A sentence for each thing that was accepted, is missing or does not fit; nothing for a run that is whole."""
    return [*notes_on_scores(run), *_credits(run, run.metrics())]


def notes_on_scores(run: RunReader) -> list[str]:
    """Those of them that concern more than the stored credit."""
    lines = run.metrics()
    return [*_accepted(run), *_logs(run, lines), *_looks(run, lines), *_result(run, lines)]


def _accepted(run: RunReader) -> list[str]:
    return [
        f"After {change['iteration']} iterations the run went on with something changed: "
        f"{'; '.join(change['differences'])}."
        for change in run.changes()
    ]


def _logs(run: RunReader, lines: Sequence[dict[str, Any]]) -> list[str]:
    """Iterations that were computed and are not in the logs."""
    sentences = []
    missing = missing_iterations(run, lines)
    if missing:
        sentences.append(f"metrics.jsonl lacks {_named('iteration', missing)}: curves and costs are without them.")
    by_iteration: dict[int, list[int]] = {}
    for line in run.problems():
        by_iteration.setdefault(line["iteration"], []).append(line.get("number", -1))  # older versions did not count
    holed = [iteration for iteration, numbers in by_iteration.items() if _is_holed(numbers)]
    if holed:
        sentences.append(f"problems.jsonl lacks lines of {_named('iteration', holed)}.")
    return sentences


def missing_iterations(run: RunReader, lines: Sequence[dict[str, Any]]) -> list[int]:
    """Iterations up to the last that is known of, without a line of metrics."""
    result = run.result()
    # A look is written before the line of its iteration, a checkpoint after it.
    checkpoints = entries.numbered(run.path / "checkpoints")
    known = [len(lines), *checkpoints, *(line["iteration"] + 1 for line in lines[-1:])]
    if result is not None:
        known.append(result.get("iteration", 0))
    return sorted(set(range(max(known))) - {line["iteration"] for line in lines})


def _is_holed(numbers: list[int]) -> bool:
    return numbers != [-1] * len(numbers) and numbers != list(range(len(numbers)))


def _looks(run: RunReader, lines: Sequence[dict[str, Any]]) -> list[str]:
    """Looks of which the metrics or the result tell, and whose folder is not there or cannot be read."""
    result = run.result()
    wanted = {line["iteration"] + 1 for line in lines if _has_look(line)}
    wanted |= {0} if lines else set()
    wanted |= set() if result is None else {result.get("iteration", 0)}
    missing = sorted(wanted - set(run.looks()))
    if not missing:
        return []
    base = (
        " Without the base nothing can be compared; `stepcredit train --resume` draws it again."
        if not missing[0]
        else ""
    )
    return [f"samples/ lacks {_named('look', missing)}.{base}"]


def _has_look(line: dict[str, Any]) -> bool:
    return any(name.startswith("held_out/") for name in line)


def _result(run: RunReader, lines: Sequence[dict[str, Any]]) -> list[str]:
    """A run that has all of its iterations, and not what has become of the base."""
    budget = run.recipe["training"].get("budget")
    spent = sum(line.get("cost/forwards", 0) for line in lines)
    is_over = len(lines) >= run.iterations or (budget is not None and spent >= budget)
    if run.result() is not None or not is_over:
        return []
    return [
        "All iterations are done and there is no result.json: the look at the end was not finished, or the file was "
        f"removed. The numbers are of the looks so far; `{resume_line(run.path)}` measures again."
    ]


def _credits(run: RunReader, lines: Sequence[dict[str, Any]]) -> list[str]:
    every = run.recipe.get("output", {}).get("credit_every", 0)
    wanted = [line["iteration"] for line in lines if every and line["iteration"] % every == 0]
    missing = sorted(set(wanted) - set(run.credits()))
    return [f"credit/ lacks {_named('iteration', missing)}."] if missing else []


def _named(what: str, numbers: Collection[int]) -> str:
    """`iterations 3, 4, 5`, cut where there are many."""
    first = ", ".join(map(str, list(numbers)[:_MOST]))
    more = f" and {len(numbers) - _MOST} more" if len(numbers) > _MOST else ""
    return f"{what}{'s' if len(numbers) > 1 else ''} {first}{more}"
