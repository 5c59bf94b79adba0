"""What a process shares with foreign code is read and put back, each thing by itself."""

import gc
import os
import random
import signal
import sys

import numpy as np
import pytest
import torch

from stepcredit.foreign import surroundings

CHANGES = {
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "whether torch keeps gradients": lambda: torch.set_grad_enabled(False),
    "torch's autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch's precision of products": lambda: torch.set_float32_matmul_precision("medium"),
    "torch's settings of cuDNN": lambda: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    "torch's choice of attention": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "NumPy's handling of floating-point errors": lambda: np.seterr(all="raise"),
    "whether Python collects garbage": gc.disable,
    "the working directory": lambda: os.chdir("/"),
    "where output is printed": lambda: setattr(sys, "stdout", open(os.devnull, "w")),  # noqa: SIM115
    "who hears Ctrl-C and SIGTERM": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_is_put_back_and_named(name):
    before = surroundings.read()
    CHANGES[name]()
    assert surroundings.read()[name] != before[name]
    assert surroundings.put_back(before) == (name,)
    assert surroundings.read()[name] == before[name]
    assert surroundings.put_back(before) == ()


def test_matrix_products_set_in_the_newer_way_are_put_back():
    """Torch refuses to be asked in the older way from then on; that it is no longer as it was is seen all the same."""
    before = surroundings.read()
    products = torch.backends.cuda.matmul
    if not hasattr(products, "fp32_precision"):
        pytest.skip("this torch has the older way alone")
    products.fp32_precision = "tf32"
    assert surroundings.put_back(before) == ("torch's precision of products",)
    assert torch.get_float32_matmul_precision() == before["torch's precision of products"]


def test_generators_go_on_where_they_were_without_a_word():
    before = surroundings.read()
    wanted = [random.random(), np.random.rand(), torch.rand(()).item()]
    surroundings.seed_generators(7)
    assert surroundings.put_back(before) == ()
    assert [random.random(), np.random.rand(), torch.rand(()).item()] == wanted


def test_a_working_directory_that_is_gone_stops_nobody(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert surroundings.put_back(surroundings.read()) == ()
