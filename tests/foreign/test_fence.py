"""Calls of foreign code: what they raise is a reason, a hang is given up, and a thread of its own changes nothing."""

import asyncio
import signal
import threading
import time

import pytest
import torch

from stepcredit.foreign.fence import Fence, Outcome


class Theirs(BaseException):
    def __str__(self):
        raise RuntimeError("not even this")


def raising(error):
    def function():
        raise error

    return function


BOTH = pytest.mark.parametrize("fence", [Fence(), Fence(60.0)], ids=["here", "elsewhere"])


@BOTH
def test_a_value_comes_back(fence):
    assert fence.call(lambda: 3) == Outcome(3)


@BOTH
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no\n  ink"), "raised ValueError: no ink"),
        (KeyError(), "raised KeyError"),
        (SystemExit(0), "called sys.exit(0)"),
        (SystemExit(), "called sys.exit(None)"),
        (GeneratorExit(), "raised GeneratorExit"),
        (asyncio.CancelledError(), "raised CancelledError"),
        (Theirs(), "raised Theirs: a Theirs that cannot be printed"),
        (
            BaseExceptionGroup("two", [SystemExit(1), ValueError("x")]),
            "raised BaseExceptionGroup: two (2 sub-exceptions)",
        ),
        (RuntimeError("x" * 10_000), f"raised RuntimeError: {'x' * 500} ..."),
    ],
    ids=lambda case: type(case).__name__,
)
def test_whatever_is_raised_is_a_reason(fence, error, reason):
    assert fence.call(raising(error)) == Outcome(None, reason)


def test_the_users_interrupt_gets_through_and_one_that_a_reward_raises_does_not():
    with pytest.raises(KeyboardInterrupt):
        Fence().call(raising(KeyboardInterrupt()))
    assert Fence(60.0).call(raising(KeyboardInterrupt())).reason == "raised KeyboardInterrupt"


@BOTH
def test_changes_are_put_back_and_named(fence):
    outcome = fence.call(lambda: torch.set_default_dtype(torch.float64) or (torch.set_grad_enabled(False) and 3))
    assert outcome.changed == ("torch's default dtype", "whether torch keeps gradients")
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


@BOTH
def test_a_seed_starts_the_generators_for_one_call_alone(fence):
    torch.manual_seed(1)
    wanted = torch.rand(())
    torch.manual_seed(1)
    drawn = [fence.call(lambda: torch.rand(()).item(), seed=seed).value for seed in (5, 6, 5)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert torch.equal(torch.rand(()), wanted)


def test_a_thread_begins_with_the_settings_of_its_caller():
    with torch.no_grad(), torch.device("meta"):
        seen = Fence(60.0).call(lambda: (torch.is_grad_enabled(), torch.empty(1).device.type))
    assert seen.value == (False, "meta")
    with torch.autocast("cpu", torch.bfloat16):
        assert Fence(60.0).call(lambda: torch.is_autocast_enabled("cpu")).value is True


def test_a_hang_is_given_up_and_its_fence_calls_nothing_until_it_is_over():
    over = threading.Event()
    fence = Fence(0.05)

    def hang():
        torch.set_default_dtype(torch.float64)
        over.wait(30)
        return 1

    begun = time.monotonic()
    outcome = fence.call(hang)
    assert time.monotonic() - begun < 5
    assert outcome.reason == "took longer than its time limit of 0.05 s and was given up"
    assert outcome.changed == ("torch's default dtype",)
    assert torch.get_default_dtype() == torch.float32
    assert fence.call(lambda: 2).reason == "is still busy with an earlier call, which was given up"
    over.set()
    while fence.call(lambda: 2).value is None:
        time.sleep(0.01)


def test_a_call_that_was_given_up_puts_nothing_back_when_it_ends():
    """By then somebody else may have set it."""
    over = threading.Event()
    fence = Fence(0.05)
    fence.call(lambda: over.wait(30))
    torch.set_default_dtype(torch.float64)
    try:
        over.set()
        while fence.call(lambda: 2).value is None:
            time.sleep(0.01)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_who_waits_hears_signals_and_may_give_up():
    over = threading.Event()
    heard = []

    def check():
        if heard:
            raise InterruptedError

    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        threading.Timer(0.1, signal.raise_signal, [signal.SIGTERM]).start()
        fence = Fence(60.0)
        with pytest.raises(InterruptedError):
            fence.call(lambda: over.wait(30), waiting=check)
        assert fence.call(lambda: 2).reason == "is still busy with an earlier call, which was given up"
    finally:
        signal.signal(signal.SIGTERM, before)
        over.set()


def test_nobody_waits_for_a_hang_when_the_process_ends():
    names = {thread.name for thread in threading.enumerate() if not thread.daemon}
    over = threading.Event()
    Fence(0.05).call(lambda: over.wait(30))
    assert {thread.name for thread in threading.enumerate() if not thread.daemon} == names
    over.set()
