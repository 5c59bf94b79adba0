"""The command line: cheap to ask for help, exit codes, messages without tracebacks, a dry run that leaves no trace."""

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from drawn_runs import drawn_run
from stepcredit import __version__
from stepcredit.cli import app as cli
from stepcredit.cli import doctor
from stepcredit.errors import RunError
from stepcredit.recipe.read import model_recipes
from stepcredit.rewards import clip

COMMANDS = (
    *("train", "evaluate", "report", "show", "compare", "cite", "sample", "export", "methods", "recipes", "bench"),
    "doctor",
)
HEAVY = "{'torch', 'diffusers', 'transformers', 'numpy', 'pydantic'}"


def run(*arguments: str) -> int:
    """`stepcredit ARGUMENTS` in this process; the exit code."""
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return drawn_run(tmp_path_factory.mktemp("runs") / "finished")


def loaded_by(arguments: list[str]) -> str:
    script = (
        "import sys\n"
        "from stepcredit.cli.app import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print('loaded:', sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_help_loads_no_torch():
    assert loaded_by(["--help"]) == "loaded: []"


def test_help_of_every_command_loads_no_torch():
    script = (
        "import sys\n"
        "from stepcredit.cli.app import main\n"
        f"for command in {COMMANDS!r}:\n"
        "    try:\n        main([command, '--help'])\n    except SystemExit as stop:\n        assert not stop.code\n"
        f"print('loaded:', sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"
    assert all(f"stepcredit {command}" in done.stdout for command in COMMANDS)


def test_a_refused_recipe_loads_no_models():
    assert "diffusers" not in loaded_by(["train", "--sede", "3"])


def test_a_real_process_exits_with_2_and_a_message_on_stderr(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "stepcredit", "train", "nothing.yaml", "--dry-run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.startswith('error: there is no recipe "nothing.yaml"')
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(tmp_path.iterdir())


def test_help_names_the_commands(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def test_a_misspelt_flag_names_the_nearest_key(capsys):
    assert run("train", "--sede", "3", "--dry-run") == 2
    captured = capsys.readouterr()
    assert 'sede: unknown key; did you mean "seed"?' in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_an_error_message_with_brackets_is_shown_as_it_is(capsys):
    assert run("train", "--rewards.0.type", "[bold]") == 2
    assert run("train", "[red].yaml", "--dry-run") == 2
    assert "[red].yaml" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("frobnicate",), ("sample",), ("sample", "somewhere")])
def test_a_command_line_that_makes_no_sense_fails(arguments, capsys):
    assert run(*arguments) != 0
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ("missing", "there is no folder"),
        ("empty", "is empty"),
        ("something", "is not a run: it has no run.yaml"),
        ("half", "is half-written"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "report", "show", "compare", "cite", "sample", "export"])
def test_what_is_no_run_is_refused_without_a_traceback(tmp_path, capsys, command, what, wanted):
    (tmp_path / "empty").mkdir()
    for name, file in {"something": "notes.txt", "half": "run.yaml"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("seed: 1\n")
    more = ["--prompt", "a red circle"] if command == "sample" else []
    assert run(command, str(tmp_path / what), *more) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error:")
    assert wanted in captured.err
    assert "Traceback" not in captured.err + captured.out


def test_a_report_is_written_and_named(drawn, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert run("report", str(drawn), "--out", str(out)) == 0
    assert f"{out} (0.2 MB)" in capsys.readouterr().out
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run("report", str(drawn)) == 0
    assert (drawn / "report.html").is_file()


def test_a_report_that_cannot_be_written_fails_clearly(drawn, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert run("report", str(drawn), "--out", str(tmp_path / "file" / "page.html")) == 2
    assert "choose another place with --out" in capsys.readouterr().err


def test_a_run_is_shown(drawn, capsys):
    assert run("show", str(drawn)) == 0
    shown = capsys.readouterr().out
    assert "finished after 6 iterations" in shown
    assert "trained rewards rose" in shown


def test_brackets_in_a_path_are_shown_as_they_are(tmp_path, capsys):
    path = drawn_run(tmp_path / "[red]run")
    assert run("show", str(path)) == 0
    assert run("report", str(path)) == 0
    assert run("compare", str(path), str(drawn_run(tmp_path / "b", seed=1)), "--out", str(tmp_path / "[i]out-0.5")) == 0
    shown = capsys.readouterr().out
    assert f"{path}: finished" in shown
    assert f"{path}/report.html" in shown
    assert f"{tmp_path}/[i]out-0.5.md" in shown


def test_citing_prints_bibtex_and_nothing_else(drawn, capsys):
    assert run("cite", str(drawn)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["% method otca", "@misc{2604.19234,"]
    assert {line[0] for line in lines if line} == {"%", "@", " ", "}"}


def test_a_comparison_is_printed_and_drawn(drawn, tmp_path, capsys):
    other = drawn_run(tmp_path / "other", method="dance_grpo")
    assert run("compare", str(drawn), str(other), "--out", str(tmp_path / "found"), "--cost", "pictures") == 0
    shown = capsys.readouterr().out
    table = (tmp_path / "found.md").read_text(encoding="utf-8")
    assert table in shown
    assert "method = dance_grpo (1 seeds)" in table
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_runs_that_cannot_be_compared_are_refused_and_nothing_is_written(drawn, tmp_path, capsys):
    out = tmp_path / "found"
    other = drawn_run(tmp_path / "other", held_out=[])
    assert run("compare", str(drawn), "--out", str(out)) == 2
    assert run("compare", str(drawn), str(other), "--out", str(out)) == 2
    assert run("compare", str(drawn), str(drawn), "--by", "method.rule.flor", "--out", str(out)) == 2
    errors = capsys.readouterr().err
    assert "wanted at least 2" in errors
    assert "cannot be compared" in errors
    assert 'did you mean "floor"?' in errors
    assert not list(tmp_path.glob("found*"))


def test_a_comparison_that_cannot_be_written_fails_clearly(drawn, tmp_path, capsys):
    other = drawn_run(tmp_path / "other", method="dance_grpo")
    (tmp_path / "file").write_text("x")
    assert run("compare", str(drawn), str(other), "--out", str(tmp_path / "file" / "found")) == 2
    error = capsys.readouterr().err
    assert "choose another place with --out" in error
    assert "--resume" not in error


def test_only_a_run_can_be_gone_on_with(tmp_path, capsys):
    assert run("train", "--resume", str(tmp_path / "nowhere")) == 2
    assert "is not a run: it has no run.yaml" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [("recipes/scenes/otca.yaml",), ("--dry-run",)])
def test_going_on_takes_the_recipe_of_the_run(drawn, capsys, more):
    assert run("train", *more, "--resume", str(drawn)) == 2
    assert "goes on with the recipe in the run folder" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["console", "run", "settings"])
def test_going_on_refuses_a_flag_that_is_no_recipe_key(drawn, capsys, key):
    assert run("train", "--resume", str(drawn), f"--{key}", "3") == 2
    assert f"{key}: unknown key" in capsys.readouterr().err


def test_going_on_with_another_method_is_refused_before_anything_is_loaded(drawn, capsys):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*") if path.name != ".lock"}
    assert run("train", "--resume", str(drawn), "--method.rule.floor", "0.1") == 2
    assert "cannot go on with another method.rule.floor" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*") if path.name != ".lock"} == before


def test_training_into_a_full_folder_is_refused_before_anything_is_loaded(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    assert run("train", "--output.folder", str(tmp_path)) == 2
    assert "exists already and is not empty" in capsys.readouterr().err.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_the_keyboard_stops_a_run_with_130(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert run("train") == 130
    assert "stopped by the keyboard" in capsys.readouterr().err


def test_an_error_says_what_was_noted_on_it(monkeypatch, capsys):
    def failing(arguments):
        error = RunError("the numbers went [astray]\x1b[31m")
        error.add_note("saved after 3 iterations")
        raise error

    monkeypatch.setattr(cli, "app", failing)
    assert run("train") == 2
    assert capsys.readouterr().err == "error: the numbers went [astray]. saved after 3 iterations\n"


def test_methods_lists_every_file_of_methods(capsys):
    files = {path.stem for path in Path(str(resources.files("stepcredit") / "methods")).glob("*.py")}
    assert run("methods") == 0
    shown = capsys.readouterr().out
    table = shown.split("\n\n")[0].splitlines()[1:]
    rows = {line.split()[0]: line.split()[1] for line in table if not line.startswith(" ")}
    assert set(rows) == files - {"__init__", "base", "border"}
    for name, paper in rows.items():  # where it comes from
        assert re.fullmatch(r"\d{4}\.\d{5}", paper), name


def test_recipes_lists_every_model_with_its_methods(capsys):
    assert run("recipes") == 0
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]
    assert {line.split()[0] for line in table if not line.startswith(" ")} == set(model_recipes())
    assert next(line for line in table if line.startswith("scenes ")).split()[1:] == [
        *("flux", "8", "x", "12", "6", "otca,", "dance_grpo"),
    ]


def test_recipes_loads_no_torch():
    assert "torch" not in loaded_by(["recipes"])


def test_a_model_and_a_method_are_named_instead_of_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("train", "scenes", "--method", "dance_grpo", "--method.objective.loss.clip=0.25", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "type: dance_grpo" in shown
    assert "noise_level: 0.7" in shown  # what the model gives it
    assert "clip: 0.25" in shown
    assert run("train", "recipes/scenes/dance_grpo.yaml", "--dry-run") == 2
    assert "recipes/scenes/dance_grpo.yaml is now: scenes --method dance_grpo" in capsys.readouterr().err


def test_a_dry_run_prints_recipe_and_counts_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("train", "--dry-run", "--rollout.prompts", "3", "--rollout.group_size", "5", "--rollout.steps", "7") == 0
    shown = capsys.readouterr().out
    assert "group_size: 5" in shown  # the resolved recipe
    assert "15 = 3 prompts x 5" in shown
    assert "105 network calls" in shown  # 15 pictures x 7 steps
    assert "90 network calls with gradient" in shown  # the last step is not trained
    assert f"{105 + 3 * 90:,} forward-equivalents" in shown
    assert "Nothing was loaded or written" in shown
    assert not list(tmp_path.iterdir())


def test_a_dry_run_counts_the_reference_of_a_method_with_kl(capsys):
    assert (
        run("train", "--dry-run", "--method.type", "flow_grpo", "--rollout.steps", "3", "--rollout.prompts", "1") == 0
    )
    reference = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("reference"))
    assert "24 network calls" in reference  # 12 pictures x 2 trained steps


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (
            ("--method.plan.window", "{size: 4}", "--rollout.steps", "4"),
            "window.first or window.end, or raise rollout.steps",
        ),
        (("--method.plan.window.size=9", "--rollout.steps=9"), "lower window.size"),
        (("--method.plan.best_of", "6", "--rollout.group_size", "5"), "a group has 5 samples; lower it"),
    ],
)
def test_a_dry_run_refuses_what_does_not_fit_into_the_trajectory(flags, wanted, capsys):
    assert run("train", "--dry-run", *flags) == 2
    captured = capsys.readouterr()
    assert wanted in captured.err.replace("\n", " ")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_dry_run_counts_the_pairs_of_a_window_and_of_a_fraction(capsys):
    flags = ("--rollout.prompts", "3", "--rollout.group_size", "5", "--rollout.steps", "7")
    assert run("train", "--dry-run", *flags, "--method.plan.window", "{size: 4, per: prompt}") == 0
    assert "60 network calls with gradient" in capsys.readouterr().out  # 15 pictures x 4 steps
    assert run("train", "--dry-run", *flags, "--method.plan.timestep_fraction", "0.6") == 0
    assert "45 network calls with gradient" in capsys.readouterr().out  # 15 pictures x 3 of 6 steps


def test_a_recipe_file_may_come_before_the_flags(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "policy: {type: flux, resolution: 32}\nprompts: {type: scenes}\nmethod: {type: tcd}\n"
        "rewards: [{type: clip_t}]\nseed: 7\n"
    )
    assert run("train", str(path), "--rollout.group_size=3", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "seed: 7" in shown
    assert "type: tcd" in shown
    assert "24 = 8 prompts x 3" in shown


def test_the_doctor_finds_a_whole_installation_well(capsys):
    assert run("doctor") == 0
    shown = capsys.readouterr().out
    assert shown.count("ok ") == 7
    assert "embedded CLIP gives its known score, 0.9080" in shown
    assert "embedded generator gives its known velocity, of size 1.4305" in shown
    assert "half precision is honoured" in shown
    assert "torch" in shown


def test_the_doctor_shows_every_failure_and_fails(monkeypatch, capsys):
    def scenes_are_recognised():
        raise ValueError("no scenes here")

    monkeypatch.setattr(doctor, "assets_are_there", lambda: doctor.Finding(False, "no weights here"))
    monkeypatch.setattr(doctor, "scenes_are_recognised", scenes_are_recognised)
    # a judge whose text encoder is drawn at random, and a half precision that is not
    monkeypatch.setattr(clip.Clip, "agreement", lambda *_, **__: [float("nan")])
    monkeypatch.setattr(doctor, "_velocity_size", lambda dtype: doctor.KNOWN_SIZE)
    assert run("doctor") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "broken judge gives its known score: the embedded CLIP scores a drawn picture with nan" in shown
    assert "broken half precision is honoured" in shown
    assert "no weights here" in shown
    assert "broken scenes are recognised: no scenes here" in shown
    assert shown.count("ok ") == 3


def test_a_flag_value_that_is_not_yaml_fails_clearly(capsys):
    assert run("train", "--seed", "[1", "--dry-run") == 2
