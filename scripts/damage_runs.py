"""Damages every file of a small run, one at a time, and asks every command that reads runs what it makes of it.

    python scripts/damage_runs.py --seed 0          some damages of each file, minutes
    python scripts/damage_runs.py --all             every damage of every file
    python scripts/damage_runs.py --only credit     what lies there alone

A command may print what it prints for a whole run, or refuse with a sentence (exit code 2), or print something else
with a sentence that says what is not as it was. It may neither end in a traceback nor print other numbers without a
word. `show`, `report`, `compare` and `evaluate` are asked about a finished run, and `train --resume` goes on with one
that was killed before its end; what is trained then must be what an undamaged run trains, unless something is said.
"""

import argparse
import contextlib
import io
import json
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stepcredit.cli.app import main as stepcredit

FLAGS = {
    "threads": 1,
    "policy.surface.rank": 2,
    "method.type": "dance_grpo",
    "rewards": "[{type: composition}]",
    "held_out": "[{type: diversity}]",
    "rollout.prompts": 2,
    "rollout.group_size": 2,
    "rollout.steps": 2,
    "training.iterations": 3,
    "evaluation.count": 8,
    "evaluation.watch": 8,
    "evaluation.every": 1,
    "output.checkpoint_every": 1,
}
LATER = 4  # iterations of the run that goes on
WORDS = re.compile(
    "lacks|not what was written|damaged|drawn again|cannot be read|is missing|not those that were written|accepted|"
    "nothing trained yet|begins anew|nothing can be said|no look at|older version"
)
"""What a command says where something is not as it was."""
UNREAD = (".lock", "report.html", "before_after.png")
"""Files that no command takes anything from: damaged or not, nothing changes."""
Damage = Callable[[Path, random.Random], object]


def cut(share: float) -> Damage:
    """Shorten a file to this share of it."""
    return lambda path, chooser: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flip(path: Path, chooser: random.Random) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[chooser.randrange(len(content))] ^= 1 << chooser.randrange(8)
    path.write_bytes(content)


def double(path: Path, chooser: random.Random) -> None:
    """Put a copy beside it, as file managers do."""
    beside = path.with_name(f"{path.stem} (copy){path.suffix}")
    if path.is_dir():
        shutil.copytree(path, beside)
    else:
        shutil.copyfile(path, beside)


def link(path: Path, chooser: random.Random) -> None:
    """Move it elsewhere and leave a link."""
    elsewhere = path.parents[1] / f"elsewhere-{path.name}"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def rename(path: Path, chooser: random.Random) -> None:
    """A folder or file of a number gets another one, anything else another name."""
    number = re.match(r"\d+", path.name)
    name = f"moved-{path.name}" if number is None else path.name.replace(number[0], f"{int(number[0]) + 7:06d}", 1)
    path.rename(path.with_name(name))


def delete(path: Path, chooser: random.Random) -> None:
    """Remove it."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def on_lines(change: Callable[[list[str]], list[str]]) -> Damage:
    """Change the lines of a log."""

    def act(path: Path, chooser: random.Random) -> None:
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return act


OF_ALL: dict[str, Damage] = {"doubled": double, "a link": link, "renamed": rename, "deleted": delete}
OF_FILES: dict[str, Damage] = {
    "emptied": cut(0),
    "cut after a third": cut(1 / 3),
    "cut after two thirds": cut(2 / 3),
    "without its end": cut(0.999),
    "a bit flipped": flip,
    "another bit flipped": flip,
}
OF_LOGS: dict[str, Damage] = {
    "first line lost": on_lines(lambda lines: lines[1:]),
    "last line lost": on_lines(lambda lines: lines[:-1]),
    "a line twice": on_lines(lambda lines: lines[:1] + lines),
    "lines exchanged": on_lines(lambda lines: lines[::-1]),
}


@dataclass
class Tally:
    """What was tried and what failed, as in `Tally(200, ["run.yaml deleted: show ended in a traceback"])`."""

    tried: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """What a command said and wrote: `Answer(0, "the table", "", ("page",))`; `crash` is a traceback."""

    code: int
    printed: str
    crash: str = ""
    written: tuple[str, ...] = ()


def ask(arguments: list[str], *results: Path) -> Answer:
    """Run a command in this process; `results` are files that it writes."""
    page = io.StringIO()
    crash = ""
    code = 0
    try:
        with contextlib.redirect_stdout(page), contextlib.redirect_stderr(page):
            stepcredit(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except Exception:  # whatever it is, it is what this script looks for
        crash = traceback.format_exc()
    if code or crash:
        return Answer(code, page.getvalue(), crash)  # what it was to write may be the damaged file itself
    return Answer(code, page.getvalue(), crash, tuple(content(path) for path in results if path.is_file()))


def content(path: Path) -> str:
    """A text, without what no two runs have in common: seconds, and the seals of lines that hold them."""
    if path.suffix != ".jsonl":
        return path.read_text(encoding="utf-8", errors="replace")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    # The last iteration that was planned at first has no look of its own; computed again, it may have one.
    moving = ("time/", "seal", "held_out/")
    return json.dumps([{key: line[key] for key in line if not key.startswith(moving)} for line in lines])


def commands(place: Path) -> dict[str, Callable[[], Answer]]:
    """Every command that reads a run, asked about `place/run`."""
    run = place / "run"
    out = place / "out"
    going_on = ["train", "--resume", str(run), "--training.iterations", str(LATER), "--output.report", "false"]
    comparing = ["compare", str(run), str(place / "other"), "--by", "seed", "--out", str(out)]
    return {
        "show": lambda: ask(["show", str(run)]),
        "report": lambda: ask(["report", str(run), "--out", str(out)], out),
        "compare": lambda: ask(comparing, place / "out.md"),
        "evaluate": lambda: ask(["evaluate", str(run)], run / "evaluations" / "000003-trained-8.json"),
        "resume": lambda: ask(going_on, run / "result.json", run / "metrics.jsonl"),
    }


def wrong(answer: Answer, wanted: Answer, command: str) -> str | None:
    """What is wrong with the answer about a damaged run; None for a good one."""
    if answer.crash or answer.code not in (0, 2) or "Traceback" in answer.printed:
        return f"{command} ended with {answer.code} in {answer.crash or answer.printed}"
    if answer.code == 2 or WORDS.search(answer.printed) or WORDS.search(" ".join(answer.written)):
        return None
    # What is printed while training holds seconds; the tables that come of it are in the files.
    says_the_same = command in ("resume", "evaluate", "report") or answer.printed == wanted.printed
    if says_the_same and answer.written == wanted.written:
        return None
    return f"{command} says something else without a word:\n{answer.printed}"


def make(place: Path) -> None:
    """A finished run, and another seed of it to be compared with."""
    flags = [part for key, value in FLAGS.items() for part in (f"--{key}", str(value))]
    for seed, name in enumerate(("run", "other")):
        done = ask(["train", *flags, "--seed", str(seed), "--output.folder", str(place / name)])
        if done.code or done.crash:
            sys.exit(f"the run that is to be damaged could not be made: {done.printed}{done.crash}")


def targets(run: Path, *, everything: bool) -> Iterator[tuple[Path, dict[str, Damage]]]:
    """What can be damaged, by its place in the run, and how."""
    folders = [path.relative_to(run) for name in ("samples", "checkpoints") for path in sorted((run / name).iterdir())]
    yield from ((folder, OF_ALL) for folder in (*folders, Path("samples"), Path("checkpoints"), Path("credit")))
    for path in sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file()):
        is_one_of_many = path.suffix == ".png" and path.stem.isdigit() and path.stem != "0000"
        if everything or not is_one_of_many:
            is_log = path.suffix == ".jsonl" and len(path.parts) == 1
            yield path, {**OF_ALL, **OF_FILES, **(OF_LOGS if is_log else {})}


def asked_about(path: Path) -> tuple[str, ...]:
    """The commands that may take something from a file; the slow ones only where they do."""
    looking = ("show", "report", "compare")
    slow = {"checkpoints": ("evaluate", "resume"), "run.yaml": ("evaluate", "resume"), "credit": ("resume",)}
    return (*looking, *slow.get(path.parts[0], ("resume",)))


def killed(run: Path) -> None:
    """A finished run as it was before its end."""
    for name in ("result.json", "before_after.png", "report.html"):
        (run / name).unlink(missing_ok=True)


def damage_all(whole: Path, place: Path, options: argparse.Namespace, wanted: dict[str, Answer]) -> Tally:
    """Every chosen damage, and every command about it."""
    chooser = random.Random(options.seed)
    tally = Tally()
    for path, ways in targets(whole / "run", everything=options.all):
        if not path.as_posix().startswith(options.only):
            continue
        names = sorted(ways) if options.all else chooser.sample(sorted(ways), min(options.each, len(ways)))
        for name in names:
            number = chooser.random()
            for command in asked_about(path):
                begin(whole, place, command)
                damaged = place / "run" / path
                if not damaged.exists():  # what a killed run has not got
                    continue
                ways[name](damaged, random.Random(number))
                tally.tried += 1
                fault = (
                    None
                    if path.name in UNREAD and name == "deleted"
                    else wrong(commands(place)[command](), wanted[command], command)
                )
                if fault is not None:
                    tally.failures.append(f"{path} {name}: {fault}")
                    print(tally.failures[-1], flush=True)
    return tally


def begin(whole: Path, place: Path, command: str) -> None:
    """The undamaged runs in the place where they are asked about."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    if command == "resume":
        killed(place / "run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=3, help="damages of each file")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", default="", help="how the paths of what is damaged begin")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "place"  # always the same: paths are part of what is printed
        make(place)
        whole = place.rename(Path(folder) / "whole")
        wanted: dict[str, Answer] = {}
        for command in ("show", "report", "compare", "evaluate", "resume"):
            begin(whole, place, command)
            wanted[command] = commands(place)[command]()
        bad = [f"{command}: {answer.printed}{answer.crash}" for command, answer in wanted.items() if answer.code]
        if bad or any(answer.crash for answer in wanted.values()):
            sys.exit(f"a command failed on the undamaged run: {bad}")
        tally = damage_all(whole, place, options, wanted)
    print(f"{tally.tried} questions about damaged runs, {len(tally.failures)} answered wrongly")
    sys.exit(bool(tally.failures))


if __name__ == "__main__":
    main()
