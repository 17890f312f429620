"""Data: text streams."""

from rnn_jax.data.text import Corpus, decode, encode, read_text, shakespeare, window, windows

__all__ = ["Corpus", "decode", "encode", "read_text", "shakespeare", "window", "windows"]
