"""Every honest form of three numbers is taken, to the bit; what is none is refused by row or as a whole, in words."""

from collections import deque
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from stepcredit.errors import RewardError
from stepcredit.rewards.numbers import numbers_of

WANTED = [0.5, -2.0, 3.0]


class Series:
    """As of pandas: an object that NumPy can ask."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


class Endless:
    def __iter__(self):
        while True:
            yield 1.0


@pytest.mark.parametrize(
    "answer",
    [
        WANTED,
        tuple(WANTED),
        deque(WANTED),
        iter(WANTED),
        (value for value in WANTED),
        dict(zip("abc", WANTED, strict=True)).values(),
        [Decimal("0.5"), Fraction(-2), 3],
        [np.float16(0.5), np.int64(-2), np.longdouble(3)],
        [torch.tensor(0.5), torch.tensor(-2), torch.tensor(3.0, dtype=torch.bfloat16, requires_grad=True)],
        [np.array(0.5), np.array(-2), np.float32(3)],
        np.array(WANTED),
        np.array(WANTED, dtype=np.float16),
        np.array(WANTED, dtype=np.longdouble),
        np.array(WANTED, dtype=object),
        np.ma.array(WANTED),
        Series(np.array(WANTED)),
        Series(np.array(WANTED, dtype=object)),
        torch.tensor(WANTED),
        torch.tensor(WANTED, dtype=torch.bfloat16),
        torch.tensor(WANTED, dtype=torch.float16, requires_grad=True),
        torch.tensor(WANTED).requires_grad_() * 1,
        torch.tensor(WANTED, dtype=torch.float64),
        torch.tensor([[*WANTED]]).T[:, 0],
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_three_numbers_in_any_form(answer):
    values, reasons = numbers_of(answer, 3)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, WANTED)
    assert reasons == {}


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ([True, np.True_, False], [1, 1, 0]),
        (torch.tensor([True, False, True]), [1, 0, 1]),
        (np.array([1, 2, 2**53 + 1]), [1, 2, 2**53]),
        (np.array([1, 2, 255], dtype=np.uint8), [1, 2, 255]),
        ([float("inf"), float("nan"), 1], [np.inf, np.nan, 1]),
        (np.array([np.longdouble("1e4000"), 1, 2]), [np.inf, 1, 2]),
    ],
)
def test_other_types_become_the_nearest_float(answer, wanted):
    values, reasons = numbers_of(answer, 3)
    np.testing.assert_array_equal(values, wanted)
    assert reasons == {}


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (None, "returned None; wanted one number each"),
        ("0.5", "returned text; wanted one number each"),
        (b"1", "returned bytes; wanted one number each"),
        (1 + 2j, "returned complex; wanted one number each"),
        (np.complex64(1), "returned complex64; wanted one number each"),
        (torch.tensor(1j), "returned torch.complex64; wanted one number each"),
        (np.datetime64("2020-01-01"), "returned datetime64; wanted one number each"),
        (np.timedelta64(3, "s"), "returned timedelta64; wanted one number each"),
        (np.str_("1"), "returned text; wanted one number each"),
        ([1.0], "returned list; wanted one number each"),
        ({}, "returned dict; wanted one number each"),
        (torch.ones(1), "returned shape (1,); wanted one number each"),
        (np.ones((1, 1)), "returned shape (1, 1); wanted one number each"),
        (10**400, "returned a number too large for float64"),
        (np.ma.masked, "masked by the reward"),
    ],
    ids=repr,
)
def test_an_item_that_is_no_number_is_missing_and_its_neighbours_are_not(item, reason):
    values, reasons = numbers_of([1.0, item, 3.0], 3)
    np.testing.assert_array_equal(values, [1, np.nan, 3])
    assert reasons == {1: reason}


def test_what_lies_under_a_mask_is_not_read():
    values, reasons = numbers_of(np.ma.array([1.0, 99.0, 3.0], mask=[False, True, False]), 3)
    np.testing.assert_array_equal(values, [1, np.nan, 3])
    assert reasons == {1: "masked by the reward"}


def test_an_unmasked_item_of_a_masked_array_that_is_no_number_has_its_own_reason():
    values, reasons = numbers_of(np.ma.array(["a", None, 3.0], mask=[True, False, False], dtype=object), 3)
    np.testing.assert_array_equal(values, [np.nan, np.nan, 3])
    assert reasons == {0: "masked by the reward", 1: "returned None; wanted one number each"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "returned None for 3 pictures; wanted one number each"),
        (0.5, "returned float for 3 pictures; wanted one number each"),
        ("abc", "returned text for 3 pictures; wanted one number each"),
        (np.float32(1), "returned shape () for 3 pictures"),
        (torch.tensor(1.0), "returned shape () for 3 pictures"),
        ([1.0, 2.0], "returned shape (2,) for 3 pictures"),
        ([], "returned shape (0,) for 3 pictures"),
        (np.ones(4), "returned shape (4,) for 3 pictures"),
        (torch.ones(3, 1), "returned shape (3, 1) for 3 pictures; flatten it: scores.reshape(-1)"),
        (np.ones((1, 3)), "returned shape (1, 3) for 3 pictures; flatten it: scores.reshape(-1)"),
        (np.ones(3, dtype=complex), "returned complex numbers for 3 pictures; wanted one number each"),
        (torch.ones(3, dtype=torch.complex64), "returned complex numbers for 3 pictures; wanted one number each"),
        (np.array(["1", "2", "3"]), "returned text for 3 pictures; wanted one number each"),
        (np.zeros(3, "datetime64[s]"), "returned dates for 3 pictures; wanted one number each"),
        ({1.0, 2.0, 3.0}, "returned a set, which has no order; wanted one number each"),
        ({"a": 1, "b": 2, "c": 3}, "returned a dictionary with a, b, c; wanted one number each"),
        ((WANTED, {}), "returned scores and a dictionary beside them; return the scores alone"),
        (Endless(), "returned more than 3 numbers for 3 pictures"),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_what_is_not_three_numbers_is_refused_in_words(answer, reason):
    with pytest.raises(RewardError) as caught:
        numbers_of(answer, 3)
    assert str(caught.value) == reason


def test_a_column_is_no_row_even_where_there_is_one_picture():
    with pytest.raises(RewardError, match="flatten it"):
        numbers_of(np.ones((1, 1)), 1)


def test_an_array_of_the_scorer_is_copied():
    kept = np.array(WANTED)
    numbers_of(kept, 3)[0][0] = 9
    assert kept[0] == 0.5
