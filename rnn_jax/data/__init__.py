"""Data: text streams, and tasks whose solutions are known."""

from rnn_jax.data.tasks import copying, delayed_addition
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
    "copying",
    "decode",
    "delayed_addition",
    "encode",
    "evaluation_windows",
    "read_text",
    "shakespeare",
    "training_window",
]
