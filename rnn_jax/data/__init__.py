"""Data: text streams."""

from rnn_jax.data.text import (
    Corpus,
    Stream,
    decode,
    encode,
    evaluation_windows,
    read_text,
    shakespeare,
    training_window,
)

__all__ = [
    "Corpus",
    "Stream",
    "decode",
    "encode",
    "evaluation_windows",
    "read_text",
    "shakespeare",
    "training_window",
]
