"""What every experiment shares: its command line, its run folder, training that can be stopped, and its machine."""

from rnn_jax.experiment.cache import keep_compiled
from rnn_jax.experiment.command_line import Parse, main
from rnn_jax.experiment.files import read_sealed, write_json, write_sealed, write_text, writing
from rnn_jax.experiment.folder import AUTO, goes_on, last_start, new_folder, read_config, resumed, write_config
from rnn_jax.experiment.loading import LoadedRun, character_network, load_run
from rnn_jax.experiment.lock import Lock
from rnn_jax.experiment.machine import cores, machine, use_cores
from rnn_jax.experiment.origin import changes, origin
from rnn_jax.experiment.parts import Parts
from rnn_jax.experiment.progress import Line, Progress, Watch, inform, tell
from rnn_jax.experiment.several import SeveralRuns
from rnn_jax.experiment.tensorboard import require_tensorboard, tensorboard
from rnn_jax.experiment.training import Interrupted, Run, UnsavedError

__all__ = [
    "AUTO",
    "Interrupted",
    "Line",
    "LoadedRun",
    "Lock",
    "Parse",
    "Parts",
    "Progress",
    "Run",
    "SeveralRuns",
    "UnsavedError",
    "Watch",
    "changes",
    "character_network",
    "cores",
    "goes_on",
    "inform",
    "keep_compiled",
    "last_start",
    "load_run",
    "machine",
    "main",
    "new_folder",
    "origin",
    "read_config",
    "read_sealed",
    "require_tensorboard",
    "resumed",
    "tell",
    "tensorboard",
    "use_cores",
    "write_config",
    "write_json",
    "write_sealed",
    "write_text",
    "writing",
]
