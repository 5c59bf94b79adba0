"""Tokenizers of the tiny text encoders: every word of the grammar is one token, letters spell out the rest."""

import json
import string

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from stepcredit.scenes.captions import every_caption

LENGTH = 12  # the longest caption has 8 words; begin and end marks make 10


def words() -> list[str]:
    return sorted({word for caption in every_caption() for word in str(caption).split()})


def clip_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer, trained until each word of the grammar is one token."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=list(string.ascii_lowercase),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator((word for word in words() for _ in range(9)), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    letters = list(string.ascii_lowercase)
    tokens = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)])
    vocabulary = {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def t5_tokenizer() -> T5Tokenizer:
    """A unigram tokenizer with one piece per word."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -3.0) for word in words()]
    pieces += [(letter, -12.0) for letter in ["▁", *string.ascii_lowercase]]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)
