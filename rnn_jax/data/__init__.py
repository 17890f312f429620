"""Data: text streams."""

from rnn_jax.data.text import Corpus, Stream, decode, encode, read_text, shakespeare, window, windows

__all__ = ["Corpus", "Stream", "decode", "encode", "read_text", "shakespeare", "window", "windows"]
