"""Checkpoints of a run, written and read by orbax."""

import gc
import hashlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from rnn_jax.checks import Description, InputError, check_array, check_arrays, describe, require
from rnn_jax.train import TrainState
from rnn_jax.types import Params

KEPT = 2
"""How many checkpoints a folder keeps: where the newest is damaged, the one before it is read."""
NOTES, DIGEST = "notes", "sha256"
"""Two arrays of bytes beside those of the state: the notes as JSON, and the hash of all else."""


class Saved(NamedTuple):
    """What a checkpoint holds, in the memory of the host."""

    folder: str
    """Where it was read."""
    arrays: dict[str, np.ndarray]
    """The arrays of the state by their paths, such as ".params.V"."""
    notes: Any
    """What was saved with the state."""
    passed_over: str | None = None
    """Says that the newest checkpoint is damaged, where this is the one before it."""


def save(folder: str | Path, state: TrainState, notes: Any = None) -> None:
    """Write the state to the folder, and then delete all checkpoints but the one before it.

    At every moment the folder has a whole checkpoint: the one before, until this one is complete.  The checkpoints are
    numbered in the order of saving, so the newest is restored even if its step is the same or smaller.  While one is
    written there are three on the disk.

    Args:
      folder: made if it does not exist.
      state: as from ``train.init_state`` or ``train.run``.
      notes: dicts, lists, strings and numbers that belong to the state, such as the data's position.

    Raises:
      InputError: a folder that cannot be written, a full disk, notes that are no JSON, or not a state of a run.

    Examples:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> from rnn_jax import checkpoint, train
      >>> state = train.TrainState((), (), (), step=jnp.int32(5), finite=jnp.bool_(True))  # of no parameters
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     checkpoint.save(folder, state, notes={"epoch": 1})
      ...     checkpoint.read(folder).notes
      {'epoch': 1}
    """
    _check_path(folder)
    _check_state(state, "state")
    try:
        text = json.dumps(notes)
    except (TypeError, ValueError):
        require(False, "notes", describe(notes), "dicts, lists, strings and numbers")
    import orbax.checkpoint as ocp

    arrays = {name: np.asarray(leaf) for name, leaf in _by_name(state).items() if leaf.size}  # orbax refuses empty ones
    arrays[NOTES] = np.frombuffer(text.encode(), np.uint8)
    arrays[DIGEST] = _digest(arrays)
    refusal, whole = None, False
    with _quiet():
        try:
            with _manager(folder, writes=True) as manager:
                newest = manager.latest_step()
                number = 0 if newest is None else newest + 1
                manager.save(number, args=ocp.args.StandardSave(arrays), force=True)
            whole = True
        except Exception as error:  # what a full disk raises depends on the thread that meets it first
            refusal = _refusal(folder, "written", error)
        finally:
            if not whole:
                _await_threads()
    if refusal is not None:
        raise refusal


def exists(folder: str | Path) -> bool:
    """Whether the folder has a finished checkpoint, whole or damaged.

    Args:
      folder: as in ``save``; it need not exist.

    Returns:
      A bool.

    Raises:
      InputError: what is no path.

    Examples:
      >>> from rnn_jax import checkpoint
      >>> checkpoint.exists("no such folder")
      False
    """
    _check_path(folder)
    path = Path(folder)
    return path.is_dir() and any(entry.name.isdigit() for entry in path.iterdir())


def read(folder: str | Path) -> Saved:
    """The newest whole checkpoint of the folder, on the host, whatever devices it was saved from.

    A checkpoint is whole if its arrays have the SHA-256 that was saved with them.

    Args:
      folder: as in ``save``.

    Returns:
      Saved.

    Raises:
      InputError: no checkpoint there, or only damaged ones.

    Examples:
      >>> import tempfile
      >>> import jax
      >>> import optax
      >>> import rnn_jax as rj
      >>> from rnn_jax import checkpoint
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> state = rj.train.init_state(rj.bptt(network), optax.sgd(0.1), params, batch_size=2)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     checkpoint.save(folder, state, notes={"lines": [1, 2]})
      ...     saved = checkpoint.read(folder)
      >>> saved.arrays[".params.V"].shape, saved.notes
      ((3, 4), {'lines': [1, 2]})
    """
    _check_path(folder)
    require(os.path.isdir(folder), "folder", str(folder), "a folder of checkpoints")
    numbers = sorted((int(entry.name) for entry in Path(folder).iterdir() if entry.name.isdigit()), reverse=True)
    require(numbers, "folder", str(folder), "a folder with a finished checkpoint")
    refusals = []
    for number in numbers:
        try:
            arrays, notes = _read(folder, number)
        except InputError as error:
            refusals.append(error)
        else:
            passed_over = f"the newest checkpoint in {str(folder)!r} is damaged; the one before it is read"
            return Saved(str(folder), arrays, notes, passed_over if refusals else None)
    raise refusals[0]


def _read(folder: str | Path, number: int) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays and the notes of one checkpoint."""
    import orbax.checkpoint as ocp

    try:
        with _quiet():
            try:
                with _manager(folder) as manager:
                    restored = manager.restore(number, args=ocp.args.StandardRestore())
            except Exception:
                _await_threads()
                raise
        arrays = {name: np.asarray(array) for name, array in restored.items()}
        digest = arrays.pop(DIGEST)
        if (digest != _digest(arrays)).any():
            raise ValueError("its numbers are not those that were saved")
        return arrays, json.loads(arrays.pop(NOTES).tobytes())
    except Exception as error:  # orbax meets a damaged file with whatever error its reader has
        raise _refusal(folder, "read", error) from error


def restore(folder: str | Path, template: TrainState) -> TrainState:
    """The newest whole state in the folder, bitwise as it was saved, typed PRNG keys included.

    Args:
      folder: as in ``save``.
      template: a state of the same network, optimiser and algorithm, as from ``train.init_state``.  It gives structure,
        shapes, dtypes and devices.

    Returns:
      TrainState.

    Raises:
      InputError: no checkpoint there, only damaged ones, or one of another structure, shape, dtype or kind of PRNG key.

    Examples:
      >>> import tempfile
      >>> import jax
      >>> import optax
      >>> import rnn_jax as rj
      >>> from rnn_jax import checkpoint
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> state = rj.train.init_state(rj.bptt(network), optax.sgd(0.1), params, batch_size=2)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     checkpoint.save(folder, state)
      ...     restored = checkpoint.restore(folder, template=state)
      >>> bool((restored.params.V == params.V).all())
      True
    """
    _check_state(template, "template")
    saved = read(folder)
    return cast(TrainState, _filled(template, saved.arrays, saved.folder))


def state_of(saved: Saved, template: TrainState) -> TrainState:
    """The state in a checkpoint that was read, on the devices of a template.

    Args:
      saved: as from ``read``.
      template: as in ``restore``.

    Returns:
      TrainState.

    Raises:
      InputError: a state of another structure, shape, dtype or kind of PRNG key.

    Examples:
      >>> import tempfile
      >>> import jax
      >>> import optax
      >>> import rnn_jax as rj
      >>> from rnn_jax import checkpoint
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> state = rj.train.init_state(rj.bptt(network), optax.sgd(0.1), params, batch_size=2)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     checkpoint.save(folder, state)
      ...     int(checkpoint.state_of(checkpoint.read(folder), template=state).step)
      0
    """
    _check_saved(saved)
    _check_state(template, "template")
    return cast(TrainState, _filled(template, saved.arrays, saved.folder))


def params_of(saved: Saved, template: Params) -> Params:
    """The parameters in a checkpoint that was read, whatever optimiser and algorithm made them.

    Args:
      saved: as from ``read``.
      template: parameters of the same network, as from ``init``.

    Returns:
      Params, on the devices of the template.

    Raises:
      InputError: parameters of another structure, shape or dtype.

    Examples:
      >>> import tempfile
      >>> import jax
      >>> import optax
      >>> import rnn_jax as rj
      >>> from rnn_jax import checkpoint
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> state = rj.train.init_state(rj.bptt(network), optax.adam(0.1), params, batch_size=2)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     checkpoint.save(folder, state)
      ...     saved = checkpoint.read(folder)
      >>> bool((checkpoint.params_of(saved, rj.init(network, jax.random.key(1))).V == params.V).all())
      True
    """
    _check_saved(saved)
    require(isinstance(template, Params), "template", describe(template), "Params, as from init")
    check_arrays(template, "template")
    prefix = ".params"
    arrays = {name.removeprefix(prefix): leaf for name, leaf in saved.arrays.items() if name.startswith(prefix)}
    return cast(Params, _filled(template, arrays, saved.folder, prefix))


def _filled(template: Any, arrays: dict[str, np.ndarray], folder: str, prefix: str = "") -> Any:
    """The template's tree with the arrays of these names, on its devices."""
    named = _by_name(template)
    wanted = {name: leaf for name, leaf in named.items() if leaf.size}
    for name in sorted(wanted.keys() | arrays.keys()):
        here, there = (
            Description(f"{tree[name].dtype}{list(tree[name].shape)}" if name in tree else "absent")
            for tree in (wanted, arrays)
        )
        require(here == there, f"state{prefix}{name} in {folder}", there, f"{here}, as in this run")
    leaves = []
    for (name, like), leaf in zip(named.items(), jax.tree.leaves(template), strict=True):
        array = arrays[name] if like.size else np.zeros(like.shape, like.dtype)
        placed = jax.device_put(array, getattr(like, "sharding", None))
        leaves.append(jax.random.wrap_key_data(placed, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else placed)
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _digest(arrays: dict[str, np.ndarray]) -> np.ndarray:
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {array.dtype} {array.shape};".encode())
        sha.update(array.tobytes())
    return np.frombuffer(sha.digest(), np.uint8)


def _manager(folder: str | Path, writes: bool = False) -> Any:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEPT, enable_async_checkpointing=False, cleanup_tmp_directories=writes
    )
    handler = ocp.StandardCheckpointHandler()
    return ocp.CheckpointManager(Path(folder).absolute(), options=options, item_handlers=handler)


def _by_name(tree: Any) -> dict[str, Any]:
    """The leaves by their paths; a typed PRNG key as its numbers, with its implementation in the name."""
    return {
        jax.tree_util.keystr(path) + (f" ({leaf.dtype})" if _is_key(leaf) else ""): (
            jax.random.key_data(leaf) if _is_key(leaf) else leaf
        )
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _is_key(leaf: Any) -> bool:
    return bool(jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracebacks that the threads of orbax and tensorstore print of an error which is raised here too."""
    loggers, hooks = [logging.getLogger(name) for name in ("absl", "asyncio")], (sys.unraisablehook, sys.excepthook)
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook, sys.excepthook = lambda unraisable: None, lambda *error: None
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        sys.unraisablehook, sys.excepthook = hooks


def _await_threads() -> None:
    """Let the threads of orbax and tensorstore end after an error: what each still meets is printed, then or later."""
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            thread.join(timeout=10)
    gc.collect()
    time.sleep(0.2)  # what other reads and writes of the same file meet comes at the same time


def _refusal(folder: str | Path, done: str, error: Exception) -> InputError:
    code = re.search(r"os_error_code='(\d+)'", str(error))  # tensorstore's way to tell
    system = error.strerror if isinstance(error, OSError) else os.strerror(int(code[1])) if code else None
    cause = system or f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return InputError(
        f"folder is {str(folder)!r}, where no checkpoint can be {done} ({cause}); "
        "it must be a folder of whole checkpoints that can be written"
    )


def _check_path(folder: Any) -> None:
    require(isinstance(folder, str | Path) and folder != "", "folder", describe(folder), "the path of a folder")


def _check_saved(saved: Any) -> None:
    require(isinstance(saved, Saved), "saved", describe(saved), "a checkpoint, as from checkpoint.read")


def _check_state(state: Any, argument: str) -> None:
    require(isinstance(state, TrainState), argument, describe(state), "a TrainState, as from train.init_state")
    check_arrays(state, argument)
    check_array(state.step, f"{argument}.step", (), "int")
