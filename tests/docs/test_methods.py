"""Every method has a page, and the page says what the class says."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from stepcredit.methods import names
from stepcredit.recipe.load import load_recipe, to_yaml, validate
from stepcredit.recipe.recipe import method_class, method_named
from stepcredit.settings.keys import flatten
from stepcredit.viewer.cite import entries, references

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "methods"
HEADINGS = [
    "Equation",
    "Figure",
    "Settings",
    "Implementation details",
    "What the paper leaves open",
    "Measured",
    "In a recipe",
    "Source",
]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "method_pages.py"))
ROW = re.compile(r"^\| `([\w.]+)` \| `([^`]*)` \|", re.MULTILINE)


def page(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def section(name, heading):
    return re.split(r"^## ", page(name), flags=re.MULTILINE)[1 + HEADINGS.index(heading)].removeprefix(heading)


def defaults(text):
    """Keys and defaults of the settings table, which is the first of its section."""
    return dict(ROW.findall(re.split(r"^### ", text, flags=re.MULTILINE)[0]))


def put(settings, key, value):
    """`{"a": {"b": value}}` for the key "a.b"."""
    first, _, below = key.partition(".")
    return {**settings, first: put({}, below, value) if below else value}


def recipes(text):
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)]


def disagreements(name, table):
    """Keys of a settings table whose default is not that of the class."""
    published = flatten(method_named(name).model_dump())
    wrong = []
    for key, value in table:
        written = float(value) if re.fullmatch(r"\de-\d", value) else yaml.safe_load(value)
        settings = flatten(method_named(name, put({}, key, written)).model_dump())
        wrong += [key] if settings != published else []
    return wrong


def test_there_is_a_page_for_every_method_and_no_other():
    assert sorted(path.stem for path in FOLDER.glob("*.md")) == sorted([*names(), "README"])


@pytest.mark.parametrize("name", names())
def test_a_page_has_all_headings_in_their_order(name):
    assert re.findall(r"^## (.*)", page(name), flags=re.MULTILINE) == HEADINGS
    title, summary = page(name).split("\n## ")[0].split("\n", 2)[::2]
    assert title.startswith("# ")
    assert len(summary.split()) > 8
    assert all(section(name, heading).strip() for heading in HEADINGS)


@pytest.mark.parametrize("name", names())
def test_the_settings_table_has_the_defaults_of_the_class(name):
    method = method_named(name)
    table = defaults(section(name, "Settings"))
    own = {f"rule.{key}" for key in type(method.rule).model_fields} - {"rule.advantage_clip"}
    for part in ("sampler", "plan", "objective"):
        own |= {f"{part}.{key}" for key in getattr(method, part).model_fields_set} - {"objective.loss"}
    own |= {"sampler.type", "sampler.noise_level"}
    assert own <= table.keys(), "every setting that the method declares itself"
    assert not disagreements(name, table.items())


def test_a_changed_default_is_noticed():
    assert disagreements("otca", [("rule.floor", "0.4"), ("objective.loss.clip", "1e-4")]) == ["rule.floor"]
    changed = {"plan.window": "{size: 2, per: prompt}", "objective.kl_weight": "0.1", "plan.shared_noise": "false"}
    assert disagreements("flash_grpo", changed.items()) == ["plan.window", "objective.kl_weight"]


@pytest.mark.parametrize("name", [*names(), "README"])
def test_recipes_of_a_page_are_valid_and_name_the_method(name):
    plain = yaml.safe_load(to_yaml(load_recipe("scenes", {"method": "dance_grpo"})))
    recipes_of_the_page = recipes(page(name))
    assert recipes_of_the_page
    for recipe in recipes_of_the_page:
        assert validate({**plain, **recipe}).method_name == (name if name != "README" else "otca")


@pytest.mark.parametrize("name", names())
def test_a_page_shows_its_figure(name):
    (link,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", section(name, "Figure"))
    assert link == f"../images/methods/{name}.png"
    assert 0 < (FOLDER / link).stat().st_size < 40_000


@pytest.mark.parametrize("name", names())
def test_a_page_names_what_is_cited_and_how_it_was_checked(name):
    source = " ".join(section(name, "Source").split())
    keys = re.findall(r"arXiv (\d{4}\.\d{5})", source)
    assert set(keys) <= entries().keys()
    cited = dict(references(load_recipe(overrides=["--method.type", name]).model_dump(mode="json")))
    (entry,) = [entry for what, entry in cited.items() if f"method {name}" in what.split(", ")]
    assert entry == entries()[keys[0]]
    how = {"formula": "Checked against: formula.", "code": "Checked against: formula and published code"}
    assert how[method_class(name).status] in source


@pytest.mark.parametrize("name", names())
def test_the_map_has_a_row_for_what_the_method_decides(name):
    slots = ["when", "mix", "advantage", "loss", "kernel", "plan"]
    (row,) = re.findall(
        rf"^\| \[{name}\]\({name}\.md\) \|(.*)\|$", (FOLDER / "README.md").read_text(), flags=re.MULTILINE
    )
    marked = {slot for slot, cell in zip(slots, row.split("|"), strict=True) if cell.strip() == "x"}
    assert marked == set(method_class(name).fills.split(", "))


def test_the_measured_section_is_filled_between_its_marks_and_nowhere_else():
    quality = {"bias": 0.01, "cosine": 0.5, "snr": 1.0, "cost": 600.0}
    rows = [
        {"rule": rule, "sampler": "cps", "problem": "linear", "qualities": [quality, {**quality, "cosine": cosine}]}
        for rule, cosine in (("otca", 0.7), ("dance_grpo", 0.5))
    ]
    text = SCRIPT["measured"]("otca", {"rows": rows, "groups": 20, "seeds": 2})
    assert "| `cps` | linear | 0.600 ± 1.271 | 0.010 | 0.500 ± 0.000 | 0.010 |" in " ".join(text.split())
    for name in names():
        filled = SCRIPT["fill"](page(name), text)
        assert filled.count(text) == 1
        assert SCRIPT["fill"](filled, "") == SCRIPT["fill"](page(name), "")
    with pytest.raises(ValueError, match="one pair"):
        SCRIPT["fill"]("# nothing to fill", text)
