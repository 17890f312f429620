"""A run on text, read from its folder on any machine: the network, its parameters and the alphabet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rnn_jax import checkpoint
from rnn_jax import network as net
from rnn_jax.cells import CELLS, elman
from rnn_jax.checks import InputError, refuse, require
from rnn_jax.experiment.files import read_sealed
from rnn_jax.experiment.progress import tell
from rnn_jax.losses import softmax_cross_entropy
from rnn_jax.types import Network, Params


class LoadedRun(NamedTuple):
    """What a run on text has learned so far."""

    network: Network
    params: Params
    alphabet: str
    """The characters, in the order of their numbers."""
    step: int
    """How many updates made the parameters."""


def character_network(settings: Mapping[str, Any], alphabet_size: int) -> Network:
    """A network over characters, of equal layers, with cross-entropy as the loss.

    Args:
      settings: "cell", the name of one of ``CELLS``; "activation" and "leak", of the cell "elman" alone; "hidden", H;
        and "layers".
      alphabet_size: K, of inputs and outputs.

    Returns:
      Network.

    Raises:
      InputError: an option that the cell does not have.

    Examples:
      >>> from rnn_jax import experiment
      >>> network = experiment.character_network({"cell": "gru", "hidden": 16, "layers": 2}, 27)
      >>> len(network.cells), network.outputs
      (2, 27)
    """
    name = settings["cell"]
    cell = elman(settings["activation"], settings["leak"]) if name == "elman" else CELLS[name]
    cells = (cell,) * settings["layers"]
    return Network(cells, alphabet_size, settings["hidden"], alphabet_size, softmax_cross_entropy())


def load_run(folder: str | Path) -> LoadedRun:
    """The newest parameters of a run of ``experiments/char_lm.py``, finished or not, whatever devices it ran on.

    Args:
      folder: the folder of the run.

    Returns:
      LoadedRun, on the default device.

    Raises:
      InputError: no folder of such a run, that of several seeds, or a damaged one.

    Examples:
      >>> from rnn_jax import experiment
      >>> try:
      ...     network, params, alphabet, step = experiment.load_run("runs/none")
      ... except ValueError as error:
      ...     print(error)
      folder is 'runs/none'; it must be the folder of a run on text
    """
    path = Path(folder)
    settings, text = read_sealed(path / "config.json") or {}, read_sealed(path / "text.json") or {}
    several = settings.get("seeds", 1) != 1
    first = path / f"seed-{settings.get('seed')}"
    require(not several, "folder", str(folder), f"that of one run: it holds several seeds; give {first}")
    wanted = "the folder of a run on text" + (", with its files as they were written" if path.is_dir() else "")
    try:
        network = character_network(settings, len(text["alphabet"]))
    except (KeyError, TypeError, InputError):
        refuse("folder", str(folder), wanted)
    saved = checkpoint.read(path / "checkpoint")
    if saved.passed_over:
        tell(f"warning: {saved.passed_over}", error=True)
    params = checkpoint.params_of(saved, net.init(network, jax.random.key(0)))
    return LoadedRun(network, params, text["alphabet"], int(saved.arrays[".step"]))
