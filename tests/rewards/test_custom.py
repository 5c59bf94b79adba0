"""Which code a reward of one's own is: its fingerprint follows the source, however the function is reached."""

import hashlib

import pytest

from stepcredit.errors import RecipeError
from stepcredit.rewards.custom import Custom
from stepcredit.rewards.suite import RewardSuite

HELPER = """
import functools
def score(media, texts):
    return [0.5] * len(media)
def passed_on(function):
    return functools.wraps(function)(lambda media, texts: function(media, texts))
"""
JUDGES = """
import functools
from their_lab.helper import passed_on, score
def own(media, texts): return score(media, texts)
class Judge:
    def __call__(self, media, texts): return score(media, texts)
judge = Judge()
partial = functools.partial(own)
wrapped = passed_on(own)
def __getattr__(name):
    raise SystemExit(name)
"""


@pytest.fixture
def judges(their_lab):
    their_lab("helper", HELPER)
    return their_lab("judges", JUDGES)


def sha256(*texts):
    return hashlib.sha256("".join(texts).encode()).hexdigest()


@pytest.mark.parametrize("name", ["own", "judge", "partial", "wrapped"])
def test_a_fingerprint_holds_the_hash_of_the_source(judges, name):
    fingerprint = Custom(f"{judges}:{name}", name="x").fingerprint()
    assert fingerprint["path"] == f"{judges}:{name}"
    assert fingerprint["file"].endswith("judges.py")
    assert fingerprint["sha256"] == sha256(JUDGES)


def test_a_function_from_another_file_has_the_hash_of_both(judges):
    fingerprint = Custom(f"{judges}:score", name="x").fingerprint()
    assert fingerprint["file"].endswith("helper.py")
    assert fingerprint["sha256"] == sha256(HELPER, JUDGES)


def test_the_hash_is_of_what_was_imported_and_not_of_later_edits(judges, their_lab):
    reward = Custom(f"{judges}:own", name="x")
    their_lab("judges", "edited = True\n")
    assert reward.fingerprint()["sha256"] == sha256(JUDGES)


def test_a_builtin_has_no_source():
    unknown = {"file": "unknown", "sha256": "unknown"}
    assert Custom("builtins:max", name="x").fingerprint() == {"path": "builtins:max", **unknown}


def test_a_module_that_answers_for_its_names_with_code_is_refused_in_words(judges):
    with pytest.raises(RecipeError, match=r'has no "missing" \(called sys.exit\(missing\)\)'):
        Custom(f"{judges}:missing", name="x")


class Unsayable:
    outputs = ("x",)

    def score(self, batch): ...

    def fingerprint(self):
        raise SystemExit(0)


def test_a_fingerprint_that_fails_ends_nothing():
    assert RewardSuite([Unsayable()]).fingerprints() == {"x": {"unknown": "fingerprint() called sys.exit(0)"}}
