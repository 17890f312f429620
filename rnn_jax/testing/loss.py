"""Is this loss's hand-written error the derivative of its value, to the last digits of every dtype?"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_parts
from rnn_jax.gradients.autodiff import loss_error
from rnn_jax.precision import accumulation_dtype
from rnn_jax.testing.fixtures import TOLERANCE
from rnn_jax.testing.report import Result, exact_arithmetic, holds, raise_on_failure
from rnn_jax.types import Array, Loss

N, K = 24, 7
ROUNDINGS = 32
MARGIN, OFFSET = 14.0, 1e4


def check_loss(loss: Loss) -> list[Result]:
    """Prove a loss: its error is the derivative of its value, and both keep their digits.

    Value and error in float64, float32 and bfloat16 are compared with the value in float64, and with its derivative by
    ``jax.grad``, on the same numbers.  In each row ‖error − reference‖ is at most 32 roundings of ‖reference‖.  The
    outputs are random, confident and right, confident and wrong, all tied, or moved by a common offset of 10⁴.

    Choose it for every new loss.  It takes about 6 s of CPU time, most of it for compiling.

    Args:
      loss: a loss of your own, ``softmax_cross_entropy()`` or ``squared_error()``.

    Returns:
      All results.

    Raises:
      ConformanceError: the checks that fail, each with its case and error.  A loss that raises an error fails with that
        error.
      InputError: not a Loss.

    Examples:
      >>> import rnn_jax as rj
      >>> loss = rj.squared_error()
      >>> rj.testing.check_loss(loss._replace(error=lambda o, y: (o - y).astype("float32")))
      Traceback (most recent call last):
      ...
      rnn_jax.testing.report.ConformanceError: loss squared_error fails 1 of its checks
        shape and dtype: error of float64 is float32(24, 7): FAILS
    """
    check_parts(loss, "loss", Loss, "a Loss, like squared_error()")
    with exact_arithmetic():
        return raise_on_failure(f"loss {loss.name}", loss_results(loss))


def loss_results(loss: Loss) -> Iterator[Result]:
    """The results of ``check_loss``, one by one; the first failure of form ends them."""
    for dtype in TOLERANCE:
        precise_dtype = accumulation_dtype(jnp.dtype(dtype))
        for name, (o, y) in _cases(loss, dtype).items():
            value, error = jax.jit(lambda o, y: (loss.value(o, y), loss.error(o, y)))(o, y)
            for part, array, shape, kind in (("value", value, (N,), precise_dtype), ("error", error, (N, K), dtype)):
                fits = array.shape == shape and array.dtype == kind
                form = holds("shape and dtype", f"{part} of {dtype} is {array.dtype}{array.shape}", fits)
                yield form
                if not form.ok:
                    return
            precise = o.astype("float64"), y if loss.integer_targets else y.astype("float64")
            reference = loss.value(*precise)[:, None], loss_error(loss, *precise)
            for part, ours, exact, kind in (
                ("value", value[:, None], reference[0], precise_dtype),
                ("error", error, reference[1], dtype),
            ):
                rounding = float(jnp.finfo(kind).eps)
                where = f"{dtype}, {name}"
                yield Result(part, where, _worst_row(ours, exact), ROUNDINGS * rounding)


def _worst_row(ours: Array, reference: Array) -> float:
    """‖ours − reference‖ / ‖reference‖ of the worst row, less the roundings of the reference itself, in float64."""
    a, b = (np.asarray(each).astype(np.float64) for each in (ours, reference))
    size = np.linalg.norm(b, axis=-1)
    unknown = ROUNDINGS * np.finfo(np.float64).eps * np.maximum(1, size)
    off = np.maximum(np.linalg.norm(a - b, axis=-1) - unknown, 0)
    return float((off / np.maximum(size, np.finfo(np.float64).tiny)).max())


def _cases(loss: Loss, dtype: str) -> dict[str, tuple[Array, Array]]:
    """Outputs [N, K] and targets, by name."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(N, K))
    if loss.integer_targets:
        classes = rng.integers(0, K, N)
        right, wrong = (MARGIN * np.eye(K)[each % K] for each in (classes, classes + 1))
        cases = {
            "at random": noise,
            "confident and right": noise + right,
            "confident and wrong": noise + wrong,
            "tied": np.ones((N, K)),
            "offset": noise + right + OFFSET,
        }
        return {name: (jnp.asarray(o, jnp.dtype(dtype)), jnp.asarray(classes)) for name, o in cases.items()}
    y = rng.normal(size=(N, K))
    pairs = {
        "at random": (noise, y),
        "confident and right": (y + 1e-3 * noise, y),
        "confident and wrong": (y + 1e3 * noise, y),
        "tied": (y, y),
        "offset": (noise + OFFSET, y + OFFSET),
    }
    return {name: tuple(jnp.asarray(a, jnp.dtype(dtype)) for a in pair) for name, pair in pairs.items()}  # type: ignore[misc]
