"""Breaks recipes and flags in thousands of ways, and counts what is not answered by a sentence that names the key.

    python scripts/fuzz_recipes.py --cases 20000 --seed 0

Every case takes a packaged recipe, breaks it in one place, and reads, checks and counts it as `train --dry-run` does,
in this process. Wanted: no error but those of the package, no case longer than five seconds of computing, every message
on one screen, and in 95 of 100 messages the full key, `rewards.0.weight`. A case is found again by its number and
the seed.
"""

import argparse
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything is imported: a broken name of a model must not be looked for

import yaml
from rich.console import Console

from stepcredit.costs.dry_run import count, show
from stepcredit.errors import StepcreditError, readable
from stepcredit.recipe.load import load_recipe
from stepcredit.recipe.read import model_recipes

LONGEST_SECONDS = 5
LONGEST_WAIT = 60  # of a clock on the wall, which tells of waiting for a pipe, and of a busy machine
SCREEN_LINES = 24
SCREEN_COLUMNS = 120
SHOWN_EVERY = 200  # of accepted recipes the whole dry run, which takes a second
HOLE = "HERE_STANDS_THE_VALUE"
VALUES = [
    *("-1", "0", "1", "2", "0.5", "1e400", "-1e-30", "1e12", "100000000", ".nan", ".inf", "9" * 4301, "9" * 30),
    *("true", "no", "Yes", "null", "~", '""', "010", "0x10", "0b1", "0o7", "1_000", "1:30", "190:20:30", "1e5", "08"),
    *(
        "2024-01-01",
        "2024-01-01 10:00:00",
        "!!int x",
        "!!python/object:os.system {}",
        "!!binary aGk=",
        "!!set {a}",
        "!x",
    ),
    *(
        "[]",
        "{}",
        "[[]]",
        "{a: 1}",
        "[1, 2, 3]",
        "{type: nothing}",
        "{type: 5}",
        "[{}]",
        "text",
        "'5'",
        "'true'",
        "=",
        "<<",
    ),
    *("*x", "&x [*x]", "&x 5", '"\\ud800"', '"\\0"', '"\\x1b[31m"', '"\\u2028"', "a.b", "..", "/dev/zero", "x" * 300),
    *(
        "[" * 330,
        "{a: " * 400,
        "[" * 60 + "]" * 60,
        "'" + "long " * 9000 + "'",
        "[red]x[/]",
        "café",
        "\u202egnp",
        "[1",
        "a: b: c",
    ),
]
NOISE = [
    "\x00",
    "\t",
    "\ufeff",
    "\u2028",
    "\x1b[2J",
    "---\n",
    "...\n",
    "%YAML 9.9\n",
    "? ",
    ": ",
    "- ",
    "{",
    "]",
    "'",
    "|",
    "#",
]
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))


@dataclass(frozen=True)
class Case:
    """A broken recipe, `Case(b"seed: no", (), "seed")`; `key` is what a message has to name, if it can be known."""

    content: bytes
    flags: tuple[str, ...] = ()
    key: str | None = None


@dataclass
class Tally:
    """What came of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    with_key: int = 0
    named: int = 0
    failures: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)

    @property
    def named_share(self) -> float:
        return self.named / max(self.with_key, 1)

    @property
    def passed(self) -> bool:
        bad = sum(self.outcomes[outcome] for outcome in ("traceback", "hang", "long"))
        return bad == 0 and self.named_share >= 0.95


class Hang(BaseException):
    """Raised by the alarm; no handler of errors may take it for one."""


def places(recipe: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of a recipe and every item of its lists, as paths."""
    items = recipe.items() if isinstance(recipe, dict) else enumerate(recipe) if isinstance(recipe, list) else ()
    for key, value in items:
        yield (*path, str(key))
        yield from places(value, (*path, str(key)))


def owner_of(recipe: Any, path: tuple[str, ...]) -> Any:
    for part in path[:-1]:
        recipe = recipe[int(part)] if isinstance(recipe, list) else recipe[part]
    return recipe


def written(recipe: Any, raw: str = "") -> bytes:
    """The recipe as a file, with `raw` as it is where the hole was left."""
    return (
        yaml.dump(recipe, Dumper=yaml.CSafeDumper, sort_keys=False).replace(HOLE, raw).encode("utf-8", "surrogatepass")
    )


def put(recipe: Any, path: tuple[str, ...], value: Any) -> None:
    owner = owner_of(recipe, path)
    owner[int(path[-1]) if isinstance(owner, list) else path[-1]] = value


def with_value(recipe: Any, rng: random.Random) -> Case:
    path = rng.choice(list(places(recipe)))
    put(recipe, path, HOLE)
    return Case(written(recipe, rng.choice(VALUES)), key=".".join(path))


def with_misspelt_key(recipe: Any, rng: random.Random) -> Case:
    path = rng.choice([path for path in places(recipe) if not path[-1].isdigit()])
    owner = owner_of(recipe, path)
    misspelt = misspell(path[-1], rng)
    owner[misspelt] = owner.pop(path[-1])
    # Two problems of one slip: the known key may be missing, and the unknown one is there.
    return Case(written(recipe), key=".".join((*path[:-1], misspelt)))


def misspell(word: str, rng: random.Random) -> str:
    place = rng.randrange(len(word))
    letter = rng.choice("abcxyz_é")
    return (
        rng.choice([word[:place] + word[place + 1 :], word[:place] + letter + word[place:], word + rng.choice("sX. 1")])
        or "x"
    )


def with_key_twice(recipe: Any, rng: random.Random) -> Case:
    key = rng.choice(list(recipe))
    return Case(written(recipe) + f"{key}: 1\n".encode(), key=key)


def without_key(recipe: Any, rng: random.Random) -> Case:
    path = rng.choice([path for path in places(recipe) if not path[-1].isdigit()])
    del owner_of(recipe, path)[path[-1]]
    return Case(written(recipe), key=".".join(path))


def with_noise(recipe: Any, rng: random.Random) -> Case:
    """Characters anywhere: nobody can say which key they broke."""
    text = written(recipe).decode()
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice(NOISE) + text[place + rng.choice((0, 0, 1, 5)) :]
    return Case(text.encode("utf-8", "surrogatepass"))


def with_broken_bytes(recipe: Any, rng: random.Random) -> Case:
    content = bytearray(written(recipe))
    for _ in range(rng.randint(1, 6)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return Case(bytes(content[: rng.choice((len(content), rng.randrange(len(content))))]))


def with_structure(recipe: Any, rng: random.Random) -> Case:
    """What is YAML and no recipe."""
    text = written(recipe).decode()
    whole = [
        *(
            "",
            "\n",
            "5",
            "- a",
            "[" * 10_000,
            "{" * 5_000,
            "- " * 3_000,
            BOMB,
            f"{text}\n---\n{text}",
            f"<<: {{}}\n{text}",
        ),
        *(
            text.replace("\n", "\r\n"),
            f"\ufeff{text}",
            f"\ufeff\ufeff{text}",
            text.replace("  ", "\t"),
            f"1: 2\n{text}",
        ),
        *(
            f"? [a]\n: 1\n{text}",
            f"!!map\n{text}",
            f"{text}extends: {rng.choice(VALUES)}\n",
            f"k: &k {{}}\n{text}o: *k\n",
        ),
        *("".join(f"k{n}: 1\n" for n in range(1_000)), f"{text}methods: {rng.choice(VALUES)}\n", "x" * 2_000_000),
    ]
    return Case(rng.choice(whole).encode("utf-8", "surrogatepass"))


def with_flag(recipe: Any, rng: random.Random) -> Case:
    key = ".".join(rng.choice(list(places(recipe))))
    return Case(written(recipe), (f"--{key}={rng.choice(VALUES)}",), key)


def with_wrong_flag(recipe: Any, rng: random.Random) -> Case:
    key = ".".join(rng.choice(list(places(recipe))))
    wrong = rng.choice(
        [f"{key}.x", misspell(key, rng), f"{key}.0", f"{key}.99", f"{key}.-1", f"{key}.²", f"{key}.1{'0' * 5000}"]
    )
    return Case(
        written(recipe), (f"--{wrong}", rng.choice(("1", "text", "{a: 1}"))), None if "1000" in wrong else wrong
    )


def with_flags_that_make_no_sense(recipe: Any, rng: random.Random) -> Case:
    key = ".".join(rng.choice(list(places(recipe))))
    senseless = [
        *(
            ("--",),
            ("--=",),
            ("--.", "1"),
            (f"--{key}",),
            ("1",),
            (f"--{key}", "--seed", "1"),
            (f"--..{key}=1",),
            ("-x", "1"),
        ),
        *(("--" + "a." * 5000 + "b", "1"), (f"--{key}\x00", "1"), (f"--{key}\udcff", "1"), ("--" + "k" * 100_000, "1")),
        (f"--{key}=1", f"--{key}=2"),
    ]
    return Case(written(recipe), rng.choice(senseless))


MUTATIONS: list[Callable[[Any, random.Random], Case]] = [
    *(with_value, with_value, with_value, with_flag, with_flag, with_misspelt_key, with_misspelt_key, without_key),
    *(with_key_twice, with_noise, with_broken_bytes, with_structure, with_wrong_flag, with_flags_that_make_no_sense),
]


def run(cases: int, seed: int, *, shown_every: int = SHOWN_EVERY) -> Tally:
    """So many cases, with what came of them."""
    recipes = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in model_recipes().values()]
    tally = Tally()
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, _ring)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        for number in range(cases):
            # A generator for each case, so that one can be made again alone.
            rng = random.Random(f"{seed}-{number}")
            mutation = rng.choice(MUTATIONS)
            case = mutation(deepcopy(rng.choice(recipes)), rng)
            path.write_bytes(case.content)
            outcome, message = judged(path, case, whole=number % shown_every == 0)
            _note(tally, case, outcome, message, f"case {number} of seed {seed}, {mutation.__name__}")
    return tally


def judged(path: Path, case: Case, *, whole: bool) -> tuple[str, str]:
    """How a case ended, and what was said."""
    signal.setitimer(signal.ITIMER_PROF, LONGEST_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_WAIT)
    try:
        recipe = load_recipe(path, case.flags)
        count(recipe)
        # The others take many seconds, because they are large and not because they are broken.
        if whole and recipe.policy.weights == "scenes":
            show(recipe, Console(file=io.StringIO()), peak_tflops=100.0, utilisation=0.5)
        return "accepted", ""
    except StepcreditError as error:
        return "refused", readable(str(error))
    except Hang:
        return "hang", "".join(traceback.format_stack(limit=3))
    except BaseException:
        return "traceback", traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def names(message: str, key: str) -> bool:
    """Whether a message has the whole key; dashes of flags are underscores, and what a model gives its method is
    checked where it is used, so that `methods.otca.rule` is `method.rule` there."""
    section, *rest = key.split(".")
    used = ".".join(("method", *rest[1:])) if section == "methods" and len(rest) > 1 else key
    plain = message.replace("-", "_")
    return any(readable(name).replace("-", "_") in plain for name in (key, used))


def _ring(*_: object) -> None:
    raise Hang


def _note(tally: Tally, case: Case, outcome: str, message: str, name: str) -> None:
    lines = sum(max(1, -(-len(line) // SCREEN_COLUMNS)) for line in message.split("\n"))
    if outcome == "refused" and lines > SCREEN_LINES:
        outcome = "long"
    tally.outcomes[outcome] += 1
    if outcome not in ("accepted", "refused"):
        tally.failures.append(f"{name}: {outcome}\n{readable(message)}")
    if outcome == "refused" and case.key is not None:
        tally.with_key += 1
        named = names(message, case.key)
        tally.named += named
        if not named:
            tally.unnamed.append(f"{name}, {case.key}: {message[:300]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=5, help="so many failures and unnamed keys are printed")
    arguments = parser.parse_args()
    began = time.perf_counter()
    tally = run(arguments.cases, arguments.seed)
    seconds = time.perf_counter() - began
    print("\n".join([*tally.failures[: arguments.show], *tally.unnamed[: arguments.show]]))
    print(f"{arguments.cases:,} cases, {arguments.cases / seconds:.0f} a second: {dict(tally.outcomes)}")
    print(f"{tally.named_share:.1%} of {tally.with_key:,} refusals of one known key name it in full")
    sys.exit(0 if tally.passed else 1)


if __name__ == "__main__":
    main()
