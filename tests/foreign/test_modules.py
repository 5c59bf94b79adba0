"""A module that a recipe names is code: what goes wrong when it is imported is a sentence, and changes nothing."""

import hashlib
import re

import pytest
import torch

from stepcredit.errors import RecipeError
from stepcredit.foreign.modules import digest, file_of, import_named


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit(0)", "the module called sys.exit(0)"),
        ("1 / 0", "the module raised ZeroDivisionError: division by zero"),
        ("def broken(:", "the module raised SyntaxError"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'; is the module on the Python path?"),
        ("from os import nothing_of_it", "cannot import name 'nothing_of_it'"),
        ("class Own(BaseException): pass\nraise Own", "the module raised Own"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_in_words(their_lab, code, reason):
    name = their_lab("broken", code)
    with pytest.raises(RecipeError, match=f'method "{name}" cannot be imported: .*' + re.escape(reason)):
        import_named(name, key=f'method "{name}"')


def test_what_importing_changes_is_put_back_and_told(their_lab):
    name = their_lab("leaks", "import torch\ntorch.set_default_dtype(torch.float64)\ntorch.manual_seed(3)\n")
    generator = torch.get_rng_state()
    with pytest.warns(UserWarning, match=rf"{name} changed torch's default dtype when imported; put back"):
        assert import_named(name, key="method").__name__ == name
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_file_of_a_module_is_known_once_it_is_imported(their_lab):
    name = their_lab("late", "")
    assert file_of(name) is None
    import_named(name, key="method")
    assert file_of(name).name == "late.py"
    assert file_of("sys") is None


def test_a_digest_is_that_of_all_files_in_order(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert digest([tmp_path / "a", tmp_path / "b"]) == hashlib.sha256(b"12").hexdigest()
    assert digest([tmp_path / "gone"]) == "unknown"
