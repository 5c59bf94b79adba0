"""Tokenizers of the tiny text encoders: every word of the grammar is one token, letters spell out the rest."""

import string
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

from transformers import CLIPTokenizer, T5Tokenizer

from stepcredit.scenes.captions import every_caption

LENGTH = 12  # the longest caption has 8 words; begin and end marks make 10


def words(captions: Iterable[object] | None = None) -> list[str]:
    """Every word of these captions, by default of the still world's."""
    # Sorted, because the order of a set changes from run to run, and the numbers of the tokens with it.
    return sorted({word for caption in captions or every_caption() for word in str(caption).split()})


def clip_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer, merged until each word of the grammar is one token; ties are broken by the alphabet, so
    that every run gives every word the same number."""
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in words()]
    merges: list[tuple[str, str]] = []
    while any(len(pieces) > 1 for pieces in spelled):
        counts = Counter(pair for pieces in spelled for pair in pairwise(pieces))
        # By the alphabet among equals: most_common would go by the order of the words.
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = [_merged(pieces, best) for pieces in spelled]
    letters = list(string.ascii_lowercase)
    # A dict, to drop what is there twice and keep the order: a merge of two letters may be a word of two.
    tokens = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)])
    vocabulary = {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    # transformers annotates merges as strings and takes pairs as well, which is what it stores.
    return CLIPTokenizer(vocab=vocabulary, merges=cast("list[str]", merges), model_max_length=LENGTH)


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Every occurrence of the pair joined, from the left."""
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def t5_tokenizer(known: Sequence[str] | None = None, length: int = LENGTH) -> T5Tokenizer:
    """A unigram tokenizer with one piece per known word, by default of the still world's."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -3.0) for word in known or words()]
    pieces += [(letter, -12.0) for letter in ["▁", *string.ascii_lowercase]]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)
