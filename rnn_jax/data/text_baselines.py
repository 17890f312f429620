"""Reference values without a network: bits per character of simple models on held-out text."""

import lzma

import numpy as np

from rnn_jax.data.text import Stream, decode


def markov(train: Stream, held_out: Stream, alphabet_size: int, order: int) -> float:
    """Bits per character of an interpolated Markov model: each character given the ``order`` characters before it.

    Witten–Bell interpolation starts from the unigram with one added count.  For a context c with n(c) occurrences, n(c,
    y) of them followed by y, and k(c) distinct characters after it:

        p_c(y) = (n(c, y) + k(c) p_shorter(y)) / (n(c) + k(c))

    Args:
      train: int [N], the text that is counted.
      held_out: int [M], the text that is predicted.
      alphabet_size: the number of distinct characters.
      order: how many characters the context has; 0 is the unigram.

    Returns:
      The mean of −log₂ p over the held-out text.

    Examples:
      >>> import numpy as np
      >>> from rnn_jax.data.text_baselines import markov
      >>> stream = np.tile(np.arange(2), 50)  # 0 1 0 1 …
      >>> markov(stream, stream, alphabet_size=2, order=0)
      1.0
      >>> markov(stream, stream, alphabet_size=2, order=1) < 0.1
      True

    Source: Witten & Bell, *The zero-frequency problem*, IEEE Transactions on Information Theory 37 (1991).
    """
    counts = np.bincount(train, minlength=alphabet_size) + 1.0
    p = (counts / counts.sum())[held_out]
    for k in range(1, min(order, len(train) - 1, len(held_out) - 1) + 1):
        seen, count = np.unique(_grams(train, k, alphabet_size), return_counts=True)
        contexts, first = np.unique(seen // alphabet_size, return_index=True)
        total = np.add.reduceat(count, first)
        distinct = np.diff(np.append(first, len(seen)))
        grams = _grams(held_out, k, alphabet_size)
        n_y = _look_up(seen, count, grams)
        n, kinds = (_look_up(contexts, values, grams // alphabet_size) for values in (total, distinct))
        p[k:] = np.where(n > 0, (n_y + kinds * p[k:]) / np.maximum(n + kinds, 1), p[k:])
    return float(-np.log2(p).mean()) + 0.0


def xz(train: Stream, held_out: Stream, alphabet: str) -> float:
    """Bits per character that ``xz``, at its strongest setting, adds for the held-out text after the training text.

        8 (|xz(train + held_out)| − |xz(train)|) / M      with sizes in bytes

    Args:
      train: int [N].
      held_out: int [M].
      alphabet: the characters of both.

    Returns:
      Bits per character of the held-out text.

    Examples:
      >>> import numpy as np
      >>> from rnn_jax.data.text_baselines import xz
      >>> stream = np.tile(np.arange(2), 50)
      >>> xz(stream, stream, "ab") < 1
      True
    """
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]
    first, second = (decode(part, alphabet).encode() for part in (train, held_out))
    with_it, without = (len(lzma.compress(text, filters=filters)) for text in (first + second, first))
    return 8 * (with_it - without) / len(held_out)


def _grams(stream: Stream, order: int, base: int) -> np.ndarray:
    """Each character with the ``order`` before it, as one number in the given base; [N − order]."""
    codes = np.zeros(len(stream) - order, np.int64)
    for k in range(order + 1):
        codes = codes * base + stream[k : len(stream) - order + k]
    return codes


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where there is none; keys are sorted."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
