"""Checkpoints of a run, written and read by orbax."""

import gc
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import jax

from rnn_jax.checks import Description, InputError, check_array, check_arrays, describe, require
from rnn_jax.train import TrainState


def save(folder: str | Path, state: TrainState) -> None:
    """Write the state to the folder, and then delete the checkpoint before it.

    At every moment the folder has a whole checkpoint: the one before, until this one is complete.  The checkpoints are
    numbered in the order of saving, so the newest is restored even if its step is the same or smaller.

    Args:
      folder: made if it does not exist.
      state: as from ``train.init_state`` or ``train.run``.

    Raises:
      InputError: a folder that cannot be written, a full disk, or not a state of a run.

    The example of ``restore`` shows both.
    """
    _check_path(folder)
    _check_state(state, "state")
    import orbax.checkpoint as ocp

    refusal, whole = None, False
    with _quiet():
        try:
            with _manager(folder, writes=True) as manager:
                newest = manager.latest_step()
                number = 0 if newest is None else newest + 1
                manager.save(number, args=ocp.args.StandardSave(_written(_by_name(state))), force=True)
            whole = True
        except Exception as error:  # what a full disk raises depends on the thread that meets it first
            refusal = _refusal(folder, "written", error)
        finally:
            if not whole:
                _await_threads()
    if refusal is not None:
        raise refusal


def restore(folder: str | Path, template: TrainState) -> TrainState:
    """The newest state in the folder, bitwise as it was saved, typed PRNG keys included.

    Args:
      folder: as in ``save``.
      template: a state of the same network, optimiser and algorithm, as from ``train.init_state``.  It gives structure,
        shapes, dtypes and devices.

    Returns:
      TrainState.

    Raises:
      InputError: no checkpoint there, a damaged one, or one of another structure, shape, dtype or kind of PRNG key.

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
    _check_path(folder)
    require(os.path.isdir(folder), "folder", str(folder), "a folder of checkpoints")
    _check_state(template, "template")
    try:
        with _quiet():
            return _restore(folder, template)
    except InputError:
        raise
    except Exception as error:  # orbax meets a damaged file with whatever error its reader has
        raise _refusal(folder, "read", error) from error


def _restore(folder: str | Path, template: TrainState) -> TrainState:
    import orbax.checkpoint as ocp

    with _manager(folder) as manager:
        newest = manager.latest_step()
        require(newest is not None, "folder", str(folder), "a folder with a finished checkpoint")
        named = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))
            for name, leaf in _by_name(template).items()
        }
        wanted = _written(named)
        saved = dict(manager.item_metadata(newest))
        for name in sorted(wanted.keys() | saved.keys()):
            here, there = (
                Description(f"{tree[name].dtype}{list(tree[name].shape)}" if name in tree else "absent")
                for tree in (wanted, saved)
            )
            require(here == there, f"state{name} in {folder}", there, f"{here}, as in this run")
        restored = manager.restore(newest, args=ocp.args.StandardRestore(wanted))
    for name in named.keys() - wanted.keys():
        restored[name] = jax.numpy.zeros(named[name].shape, named[name].dtype, device=named[name].sharding)
    leaves = [
        jax.random.wrap_key_data(restored[name], impl=jax.random.key_impl(leaf)) if _is_key(leaf) else restored[name]
        for name, leaf in zip(named, jax.tree.leaves(template), strict=True)
    ]
    return cast(TrainState, jax.tree.unflatten(jax.tree.structure(template), leaves))


def _manager(folder: str | Path, writes: bool = False) -> Any:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=writes
    )
    handler = ocp.StandardCheckpointHandler()
    return ocp.CheckpointManager(Path(folder).absolute(), options=options, item_handlers=handler)


def _by_name(state: TrainState) -> dict[str, Any]:
    """The leaves by their paths; a typed PRNG key as its numbers, with its implementation in the name."""
    return {
        jax.tree_util.keystr(path) + (f" ({leaf.dtype})" if _is_key(leaf) else ""): (
            jax.random.key_data(leaf) if _is_key(leaf) else leaf
        )
        for path, leaf in jax.tree.leaves_with_path(state)
    }


def _written(named: dict[str, Any]) -> dict[str, Any]:
    """All but the arrays without numbers, which orbax refuses."""
    return {name: leaf for name, leaf in named.items() if leaf.size}


def _is_key(leaf: Any) -> bool:
    return bool(jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracebacks that the threads of orbax and tensorstore print of an error which is raised here too."""
    loggers, hook = [logging.getLogger(name) for name in ("absl", "asyncio")], sys.unraisablehook
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        sys.unraisablehook = hook


def _await_threads() -> None:
    """Let orbax's threads end after an error: what each still meets is printed, then or when it is collected."""
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            thread.join(timeout=10)
    gc.collect()


def _refusal(folder: str | Path, deed: str, error: Exception) -> InputError:
    code = re.search(r"os_error_code='(\d+)'", str(error))  # tensorstore's way to tell
    system = error.strerror if isinstance(error, OSError) else os.strerror(int(code[1])) if code else None
    cause = system or f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return InputError(
        f"folder is {str(folder)!r}, where no checkpoint can be {deed} ({cause}); "
        "it must be a folder of whole checkpoints that can be written"
    )


def _check_path(folder: Any) -> None:
    require(isinstance(folder, str | Path) and folder != "", "folder", describe(folder), "the path of a folder")


def _check_state(state: Any, argument: str) -> None:
    require(isinstance(state, TrainState), argument, describe(state), "a TrainState, as from train.init_state")
    check_arrays(state, argument)
    check_array(state.step, f"{argument}.step", (), "int")
