"""The text cache: each distinct prompt once, bounded, and right when it is smaller than what is asked."""

from contextlib import contextmanager

import pytest
import torch

from stepcredit.policies.text import TextCache


class Encoder:
    """One number a letter, and notes on what was asked of it."""

    def __init__(self):
        self.batches = []
        self.entered = 0

    def __call__(self, prompts):
        self.batches.append("".join(prompts))
        return {"words": torch.tensor([[float(ord(prompt))] * 2 for prompt in prompts])}

    @contextmanager
    def ready(self):
        self.entered += 1
        yield


def cached(size, batch=16):
    encoder = Encoder()
    return encoder, TextCache(encoder, size, encoder.ready, batch=batch)


def letters(tensors):
    return "".join(chr(int(row[0])) for row in tensors["words"])


@pytest.mark.parametrize("size", [0, 1, 3, 100])
def test_rows_are_those_of_the_prompts_whatever_the_size(size):
    encoder, cache = cached(size)
    for prompts in ("abcabc", "cde", "a", "edcba"):
        assert letters(cache(list(prompts))) == prompts
        assert len(cache) <= size
    assert all(len(set(batch)) == len(batch) for batch in encoder.batches)


def test_the_least_recently_used_goes_first():
    encoder, cache = cached(3)
    cache(list("abc"))
    cache(list("a"))  # now b is the oldest
    cache(list("d"))
    cache(list("acd"))
    assert encoder.batches == ["abc", "d"]
    cache(list("b"))
    assert encoder.batches == ["abc", "d", "b"]


def test_a_prompt_of_the_call_is_not_lost_to_a_new_one_of_the_same_call():
    encoder, cache = cached(2)
    cache(list("ab"))
    assert letters(cache(list("cda"))) == "cda"
    assert encoder.batches == ["ab", "cd"]


def test_prompts_are_encoded_in_batches_with_the_encoders_fetched_once():
    encoder, cache = cached(100, batch=2)
    cache(list("abcde"))
    assert encoder.batches == ["ab", "cd", "e"]
    assert encoder.entered == 1
    assert cache.encoded == 5
    cache(list("abc"))
    assert encoder.entered == 1  # nothing new, nothing fetched
