"""Going on with a run trusts nothing: what it stands on is compared, its logs are checked, its base is the base."""

import io
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from fakes import PROMPTS, Brightness, Contrast, make_parts_of, make_recipe
from stepcredit import api, build
from stepcredit.errors import RunError
from stepcredit.files.seal import sealed
from stepcredit.prompts.sources import Listed
from stepcredit.rewards.suite import RewardSuite
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.notes import notes
from stepcredit.runs.reader import RunReader
from stepcredit.training import checkpoint
from stepcredit.training.looking import Evaluator
from stepcredit.viewer import report, terminal

BEFORE = 3
AFTER = 5


class Reseeded(Brightness):
    """A reward whose source has changed."""

    def fingerprint(self):
        return {"kind": "Brightness", "source": "1234"}


def on_fakes(monkeypatch, reward=Brightness, prompts=PROMPTS, held_out=PROMPTS):
    def build_fakes(recipe):
        parts = replace(make_parts_of(recipe, [reward()]), prompts=Listed(prompts))
        return parts, Evaluator(Listed(held_out), parts.rewards.joined(RewardSuite([Contrast("contrast")])))

    monkeypatch.setattr(api, "build_parts", build_fakes)
    monkeypatch.setattr(api, "build_trackers", lambda *_: [])


def recipe_for(folder, iterations):
    return make_recipe(
        training={"iterations": iterations, "ema": 0.5},
        held_out=[{"type": "custom", "path": "fakes:unused", "name": "contrast"}],
        optimiser={"learning_rate": 0.05},
        evaluation={"every": 1, "watch": 4, "count": 8},
        output={"folder": str(folder), "checkpoint_every": 1, "report": False},
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run that ended after 3 iterations, and one that went on to 5 without a stop."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        on_fakes(monkeypatch)
        for name, iterations in (("short", BEFORE), ("long", AFTER)):
            api.train(recipe_for(place / name, iterations), console=Console(quiet=True))
    return place


@pytest.fixture
def run(stored, tmp_path, monkeypatch):
    """A copy of the shorter one, to be harmed."""
    on_fakes(monkeypatch)
    shutil.copytree(stored / "short", tmp_path / "run")
    return tmp_path / "run"


def go_on(folder, **settings):
    """What it says."""
    page = io.StringIO()
    console = Console(file=page, width=1000, color_system=None)
    api.resume(folder, console=console, **{"training.iterations": AFTER, **settings})
    return page.getvalue()


def snapshot(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(folder, match, **settings):
    """The run is refused with this, and nothing of it changed."""
    before = snapshot(folder)
    with pytest.raises(RunError, match=match):
        go_on(folder, **settings)
    assert snapshot(folder) == before


def result(folder):
    return json.loads((folder / "result.json").read_text())


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_whole_run_goes_on_to_the_same_end_without_a_word(run, stored):
    said = go_on(run)
    assert "drawn again" not in said
    assert "changed" not in said
    assert result(run) == result(stored / "long")
    assert notes(RunReader(run)) == []


# What it stands on


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("seed: 0", "seed: 7", r"seed \(run\.yaml\): 7 now, 0 then"),
        ("learning_rate: 0.05", "learning_rate: 0.5", r"optimiser\.learning_rate \(run\.yaml\): 0\.5 now, 0\.05 then"),
        ("group_size: 4", "group_size: 2", r"rollout\.group_size"),
        ("ema: 0.5", "ema: 0.75", r"training\.ema"),
        ("count: 8", "count: 16", r"evaluation\.count"),
    ],
)
def test_an_edited_recipe_is_refused_by_its_keys(run, old, new, named):
    edit(run / "run.yaml", old, new)
    refused(run, rf"after 3 iterations this has changed:[\s\S]*{named}[\s\S]*--resume \S*run --accept-changes")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"prompts": PROMPTS[:3]}, "training prompts"),
        ({"held_out": PROMPTS[::-1]}, "held-out prompts"),
        ({"reward": Reseeded}, r"reward brightness\.source: 1234 now, not there then"),
    ],
)
def test_other_prompts_or_another_reward_are_refused(run, monkeypatch, changed, named):
    on_fakes(monkeypatch, **changed)
    refused(run, named)


def test_other_weights_are_refused(run, monkeypatch):
    monkeypatch.setattr(build, "identity", lambda *_: {"transformer/config.json": "other"})
    refused(run, r"policy\.weights transformer/config\.json: other now, \w+ then")


def versions(**changes):
    about = build.describe()
    return {**about, "packages": {**about["packages"], **changes}}


def test_another_version_of_what_computes_is_refused(run, monkeypatch):
    about = versions(torch="0.1")
    monkeypatch.setattr(build, "describe", lambda: dict(about))
    refused(run, r"version of torch: 0\.1 now")


def test_another_machine_is_told_and_not_refused(run, monkeypatch):
    about = {**versions(), "device": "cpu, 99 threads"}
    monkeypatch.setattr(build, "describe", lambda: {**about, "packages": dict(about["packages"])})
    assert "device: cpu, 99 threads now" in go_on(run)


def test_several_changes_are_named_in_one_error(run, monkeypatch):
    on_fakes(monkeypatch, reward=Reseeded, prompts=PROMPTS[:3])
    edit(run / "run.yaml", "seed: 0", "seed: 7")
    refused(run, r"seed \(run\.yaml\)[\s\S]*training prompts[\s\S]*reward brightness")


def test_what_is_accepted_is_written_down_and_shown(run, monkeypatch):
    edit(run / "run.yaml", "seed: 0", "seed: 7")
    assert "the look at the base is drawn again" in go_on(run, accept_changes=True)
    (change,) = RunReader(run).changes()
    assert change == {"iteration": 3, "differences": ["seed (run.yaml): 7 now, 0 then"]}
    page = io.StringIO()
    terminal.show(RunReader(run), Console(file=page, width=200, color_system=None))
    assert "After 3 iterations the run went on with something changed: seed (run.yaml): 7 now" in page.getvalue()
    assert "went on with something changed" in report.render(RunReader(run))
    go_on(run, **{"training.iterations": AFTER + 1})  # what was accepted is what the run stands on from then on


def test_a_checkpoint_of_an_older_version_goes_on_and_says_that_nothing_could_be_compared(run):
    for path in checkpoint.listed(run / "checkpoints"):
        state = json.loads((path / "state.json").read_text())
        state = {key: value for key, value in state.items() if key not in ("standing", "sha256")}
        (path / "state.json").write_text(json.dumps(sealed(state)))
    assert "could not be checked" in go_on(run)


def test_a_run_without_any_checkpoint_begins_anew_with_what_is_there(run, stored):
    shutil.rmtree(run / "checkpoints")
    go_on(run)
    assert result(run) == result(stored / "long")
    assert len(RunReader(run).metrics()) == AFTER


# Its logs


def lines_of(run):
    return (run / "metrics.jsonl").read_text().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda lines: [lines[0], lines[2]], "there are 2"),
        (lambda lines: lines[:2], "there are 2"),
        (lambda lines: [lines[0], *lines], "line 2, is line 1 again"),
        (lambda lines: [lines[1], lines[0], lines[2]], "doubled or out of order"),
        (
            lambda lines: [lines[0].replace('"cost/pictures": 8.0', '"cost/pictures": 9.0'), *lines[1:]],
            "line 1, is dam",
        ),
    ],
    ids=["lost", "last lost", "doubled", "exchanged", "edited"],
)
def test_a_log_that_is_not_what_was_written_is_refused_or_mended(run, harm, named):
    harmed = harm(lines_of(run))
    assert harmed != lines_of(run)
    (run / "metrics.jsonl").write_text("".join(harmed))
    refused(run, rf"metrics\.jsonl: its first 3 lines are not those that were written \(.*{named}")
    go_on(run, accept_changes=True)
    assert "metrics.jsonl" in str(RunReader(run).changes())
    numbers = [line["iteration"] for line in RunReader(run).metrics()]
    assert numbers == sorted(set(numbers))
    assert numbers[-2:] == [3, 4]


def test_a_lost_line_is_told_wherever_the_run_is_shown(run):
    (run / "metrics.jsonl").write_text("".join(lines_of(run)[::2]))
    assert notes(RunReader(run)) == ["metrics.jsonl lacks iteration 1: curves and costs are without them."]


# The base


def harm_picture(place):
    path = next(place.glob("*.png"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        shutil.rmtree,
        harm_picture,
        lambda place: (place / "look.json").unlink(),
        lambda place: edit(place / "scores.jsonl", '"brightness": 0.', '"brightness": 1.'),
        lambda place: place.rename(place.with_name("000000 (copy)")),
    ],
    ids=["gone", "a flipped bit", "half", "edited", "renamed"],
)
def test_a_base_that_is_not_there_any_more_is_drawn_from_the_weights_before_training(run, stored, harm):
    harm(run / "samples" / "000000")
    assert "drawn again, from the weights before training" in go_on(run)
    assert result(run) == result(stored / "long")
    assert snapshot(run / "samples" / "000000") == snapshot(stored / "long" / "samples" / "000000")


# Strangers and links


def test_strangers_are_passed_over_and_stay(run, stored):
    for name in ("samples", "checkpoints", "credit"):
        place = run / name
        (place / ".DS_Store").write_bytes(b"\0")
        (place / "000002.bak").mkdir()
        (place / "000009").write_text("a file")
        (place / "7").mkdir()
    shutil.copytree(run / "samples" / "000002", run / "samples" / "000009 (copy)")
    shutil.copyfile(run / "credit" / "000001.safetensors", run / "credit" / "000001 (copy).safetensors")
    elsewhere = run.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (run / "samples" / "000008").symlink_to(elsewhere)
    (run / "checkpoints" / "000008").symlink_to(elsewhere)
    strangers = {str(path.relative_to(run)) for path in run.rglob("*")}
    strangers -= {str(path.relative_to(stored / "short")) for path in (stored / "short").rglob("*")}
    go_on(run)
    assert result(run) == result(stored / "long")
    assert strangers <= {str(path.relative_to(run)) for path in run.rglob("*")}
    assert (elsewhere / "precious").read_text() == "x"


@pytest.mark.parametrize("name", ["samples", "checkpoints", "credit", "metrics.jsonl", "result.json"])
def test_a_run_is_not_written_through_a_link(run, name):
    elsewhere = run.parent / f"elsewhere-{name}"
    (run / name).rename(elsewhere)
    (run / name).symlink_to(elsewhere)
    refused(run, rf"through a link: \S*{name} \(to \S*elsewhere-{name}\); nothing was changed")


def test_the_run_folder_itself_may_be_a_link(run, stored):
    link = run.parent / "latest"
    link.symlink_to(run)
    go_on(link)
    assert result(run) == result(stored / "long")


@pytest.mark.parametrize(
    "left",
    [
        {},
        {".lock": ""},
        {".environment.json.0a1b2c3d.writing": "{"},
        {".lock": "", "environment.json": '{"format": 3}', ".run.yaml.0a1b2c3d.writing": "seed"},
    ],
)
def test_what_a_killed_start_leaves_is_free_for_the_next(tmp_path, left):
    folder = tmp_path / "run"
    folder.mkdir()
    for name, text in left.items():
        (folder / name).write_text(text)
    RunFolder.create(folder).release()


def test_a_temporary_name_follows_no_link(run):
    elsewhere = run.parent / "elsewhere"
    elsewhere.write_text("precious")
    (run / ".metrics.jsonl.writing").symlink_to(elsewhere)
    (run / ".run.yaml.writing").symlink_to(elsewhere)
    go_on(run)
    assert elsewhere.read_text() == "precious"


# Others read meanwhile


def test_a_checkpoint_that_goes_while_it_is_read_is_passed_over(run, monkeypatch):
    fill = checkpoint.restore_weights
    removed = []

    def restore(path, policy, *, raw=False):
        if not removed:  # the run goes on, and keeps only the last few
            removed.append(path)
            shutil.rmtree(path)
        return fill(path, policy, raw=raw)

    monkeypatch.setattr(checkpoint, "restore_weights", restore)
    policy = make_parts_of(recipe_for(run, BEFORE), [Brightness()]).policy
    assert checkpoint.restore_newest(run / "checkpoints", policy)[0].name == "000002"
    assert removed[0].name == "000003"


@pytest.mark.parametrize(("reward", "changed"), [(Brightness, []), (Reseeded, ["reward brightness.source: 1234 now"])])
def test_an_evaluation_says_what_is_not_as_it_was(run, monkeypatch, reward, changed):
    parts = make_parts_of(recipe_for(run, BEFORE), [reward()])
    held_out = parts.rewards.joined(RewardSuite([Contrast("contrast")]))
    monkeypatch.setattr(api, "build_policy", lambda recipe: parts.policy)
    monkeypatch.setattr(api, "build_prompts", lambda settings: Listed(PROMPTS))
    monkeypatch.setattr(api, "build_rewards", lambda *_: parts.rewards)
    monkeypatch.setattr(api, "build_evaluator", lambda *_: Evaluator(Listed(PROMPTS), held_out))
    _, content = api.evaluate(run, count=4)
    assert [what.partition(",")[0] for what in content["changed"]] == changed
    page = Console(file=io.StringIO(), record=True, width=300)
    terminal.evaluation(content, run, page)
    assert page.export_text().count("not as it was when the checkpoint was written") == len(changed)
    assert report.write(run).read_text().count("not as it was when the checkpoint was written") == len(changed)


def test_an_edited_result_is_not_shown(run):
    edit(run / "result.json", '"difference": ', '"difference": 1')
    with pytest.raises(RunError, match=r"result\.json is damaged \(it is not what was written\)"):
        RunReader(run).result()


def test_a_result_that_is_gone_is_told_wherever_the_run_is_shown(run):
    (run / "result.json").unlink()
    (note,) = notes(RunReader(run))
    assert "All iterations are done and there is no result.json" in note
    assert f"stepcredit train --resume {run}" in note


class HalfBlind(Brightness):
    """It cannot score the first picture, in training and at looks."""

    def score(self, batch):
        output = super().score(batch)
        output.scores["brightness"][0] = np.nan
        return output


def test_problems_of_training_and_of_looks_are_counted_together(tmp_path, monkeypatch):
    on_fakes(monkeypatch, HalfBlind)
    api.train(recipe_for(tmp_path / "run", BEFORE), console=Console(quiet=True))
    for iterations in (BEFORE, AFTER):
        lines = RunReader(tmp_path / "run").problems()
        for iteration in range(iterations):
            of_iteration = [line for line in lines if line["iteration"] == iteration]
            assert [line["number"] for line in of_iteration] == [0, 1]
            assert {line.get("look") for line in of_iteration} == {None, iteration + 1}
        assert notes(RunReader(tmp_path / "run")) == []
        go_on(tmp_path / "run")
    log = tmp_path / "run" / "problems.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:1] + lines[2:]))  # the first of iteration 0; the look at the base stands before it
    assert any("problems.jsonl lacks lines" in note for note in notes(RunReader(tmp_path / "run")))


def test_a_picture_that_is_a_link_is_not_shown(run):
    picture = next((run / "samples" / "000003").glob("*.png"))
    picture.rename(run / "elsewhere.png")
    picture.symlink_to(run / "elsewhere.png")
    with pytest.raises(RunError, match=r"\.png is a link, which leads out of the run"):
        RunReader(run).look(3)


def test_edited_credit_is_not_shown(run):
    path = run / "credit" / "000001.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"000001\.safetensors is damaged \(it is not what was written\)"):
        RunReader(run).credit(1)
    path.rename(path.with_name("000002.safetensors"))
    with pytest.raises(RunError, match=r"000002\.safetensors is damaged"):
        RunReader(run).credit(2)


def test_an_edited_recipe_is_not_shown_unless_its_seal_is_taken_off(run):
    edit(run / "run.yaml", "seed: 0", "seed: 7")
    with pytest.raises(RunError, match=r"run\.yaml is not what was written"):
        terminal.show(RunReader(run), Console(file=io.StringIO()))
    path = run / "run.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("# sha256")))
    assert RunReader(run).recipe["seed"] == 7


def test_the_number_of_a_checkpoint_is_a_number(run):
    assert os.listdir(run / "checkpoints")
    (run / "checkpoints" / "1000000").mkdir()
    (run / "checkpoints" / "999999").mkdir()
    assert [path.name for path in checkpoint.listed(run / "checkpoints")][-2:] == ["999999", "1000000"]
