"""Metrics for TensorBoard, written by tensorboardX to the folder of the run."""

from importlib.util import find_spec
from pathlib import Path

from rnn_jax.checks import Description, require
from rnn_jax.experiment.progress import Line, Watch


def tensorboard(folder: Path, done: int = 0) -> Watch:
    """A callback that writes the numbers of each line as scalars by their names, for ``tensorboard --logdir``.

    Needs no account and no network.

    Args:
      folder: made if it does not exist.
      done: the number of steps made before; what an earlier process has written after it is hidden.

    Returns:
      A function of a line with "step" and numbers by name.

    Raises:
      InputError: tensorboardX is not installed.

    Examples:
      >>> import importlib.util, tempfile
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> if importlib.util.find_spec("tensorboardX"):
      ...     with tempfile.TemporaryDirectory() as folder:
      ...         experiment.tensorboard(Path(folder))({"step": 1, "bits": 4.0})
    """
    require_tensorboard()
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=done + 1, flush_secs=1)

    def watch(line: Line) -> None:
        for name, value in line.items():
            if name != "step":
                writer.add_scalar(name, value, line["step"])
        writer.flush()

    return watch


def require_tensorboard() -> None:
    """Refuse to go on without tensorboardX.

    Raises:
      InputError: tensorboardX is not installed.

    Examples:
      >>> from rnn_jax import experiment
      >>> try:
      ...     experiment.require_tensorboard()
      ... except ValueError as error:
      ...     assert "pip install tensorboardX" in str(error)
    """
    found = Description("asked for, and the package tensorboardX is absent")
    require(find_spec("tensorboardX"), "tensorboard", found, "left out, or after pip install tensorboardX")
