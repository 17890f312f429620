"""Checkpoints of a run, kept by orbax."""

import os
from pathlib import Path
from typing import Any, cast

import jax

from rnn_jax.checks import Description, InputError, check_array, check_arrays, describe, require
from rnn_jax.train import TrainState


def save(folder: str | Path, state: TrainState) -> None:
    """Write the state under its step number and drop the one before it; a save cut short leaves the old one valid.

    One of the same step is replaced.

    Raises:
      InputError: a folder that cannot be written, or not a state of a run.
    """
    _check_path(folder)
    _check_state(state, "state")
    import orbax.checkpoint as ocp

    step = int(state.step)
    try:
        with _manager(folder) as manager:
            if step in manager.all_steps():
                manager.delete(step)
            manager.save(step, args=ocp.args.StandardSave(_by_name(state)), force=True)
    except (OSError, ValueError) as error:
        raise _refusal(folder, "written", error) from error


def restore(folder: str | Path, like: TrainState) -> TrainState:
    """The newest state in the folder, bitwise as it was saved.

    Args:
      like: a state of the same network, optimiser and algorithm, as from ``train.start``; it gives structure, shapes,
        dtypes and devices.

    Raises:
      InputError: no checkpoint there, a damaged one, or one of another structure, shape or dtype.
    """
    _check_path(folder)
    require(os.path.isdir(folder), "folder", str(folder), "a folder of checkpoints")
    _check_state(like, "like")
    try:
        return _restore(folder, like)
    except InputError:
        raise
    except Exception as error:  # orbax meets a damaged file with whatever error its reader has
        raise _refusal(folder, "read", error) from error


def _restore(folder: str | Path, like: TrainState) -> TrainState:
    import orbax.checkpoint as ocp

    with _manager(folder) as manager:
        step = manager.latest_step()
        require(step is not None, "folder", str(folder), "a folder with a finished checkpoint")
        wanted = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))
            for name, leaf in _by_name(like).items()
        }
        saved = dict(manager.item_metadata(step))
        for name in sorted(wanted.keys() | saved.keys()):
            here, there = (
                Description(f"{tree[name].dtype}{list(tree[name].shape)}" if name in tree else "absent")
                for tree in (wanted, saved)
            )
            require(here == there, f"state{name} in {folder}", there, f"{here}, as in this run")
        restored = manager.restore(step, args=ocp.args.StandardRestore(wanted))
    leaves = [restored[name] for name in _by_name(like)]
    return cast(TrainState, jax.tree.unflatten(jax.tree.structure(like), leaves))


def _manager(folder: str | Path) -> Any:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    handler = ocp.StandardCheckpointHandler()
    return ocp.CheckpointManager(Path(folder).absolute(), options=options, item_handlers=handler)


def _by_name(state: TrainState) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


def _refusal(folder: str | Path, deed: str, error: Exception) -> InputError:
    return InputError(
        f"folder is {str(folder)!r}, where no checkpoint can be {deed} ({type(error).__name__}); "
        "it must be a folder of whole checkpoints that can be written"
    )


def _check_path(folder: Any) -> None:
    require(isinstance(folder, str | Path) and folder != "", "folder", describe(folder), "the path of a folder")


def _check_state(state: Any, argument: str) -> None:
    require(isinstance(state, TrainState), argument, describe(state), "a TrainState, as from train.start")
    check_arrays(state, argument)
    check_array(state.step, f"{argument}.step", (), "int")
