"""Checkpoints of a run, kept by orbax."""

from pathlib import Path
from typing import Any, cast

import jax

from rnn_jax.checks import Description, require
from rnn_jax.train import TrainState


def save(folder: str | Path, state: TrainState) -> None:
    """Write the state under its step number and drop the one before it; a save cut short leaves the old one valid."""
    with _manager(folder) as manager:
        import orbax.checkpoint as ocp

        manager.save(int(state.step), args=ocp.args.StandardSave(_by_name(state)), force=True)


def restore(folder: str | Path, like: TrainState) -> TrainState:
    """The newest state in the folder, bitwise as it was saved.

    Args:
      like: a state of the same network, optimiser and algorithm, as from ``train.start``; it gives structure, shapes,
        dtypes and devices.

    Raises:
      InputError: no checkpoint there, or one of another structure, shape or dtype.
    """
    import orbax.checkpoint as ocp

    require(Path(folder).is_dir(), "folder", str(folder), "a folder of checkpoints")
    with _manager(folder) as manager:
        step = manager.latest_step()
        require(step is not None, "folder", str(folder), "a folder with a finished checkpoint")
        wanted = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)  # type: ignore[no-untyped-call]
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
