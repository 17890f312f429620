"""Data: text streams, and tasks whose solutions are known."""

from rnn_jax.data.tasks import adding, copy_memory, copying, delayed_addition, flip_flop, parity
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
    "adding",
    "copy_memory",
    "copying",
    "decode",
    "delayed_addition",
    "encode",
    "evaluation_windows",
    "flip_flop",
    "parity",
    "read_text",
    "shakespeare",
    "training_window",
]
