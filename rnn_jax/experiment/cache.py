"""Compiled programs, kept from process to process."""

import hashlib
import warnings
from pathlib import Path

import jax

from rnn_jax.experiment.machine import processor

SECONDS = 0.1
"""A program that compiled faster than this is not kept."""


def keep_compiled(folder: Path | None = None) -> Path:
    """Keep the programs that JAX compiles, so that the next process reads them instead of compiling again.

    Call it before JAX's first computation.  It changes no number: a program that was read is the one that was compiled.
    Where it cannot be read or written, as on a full disk, the programs are compiled as ever, without a warning.

    Args:
      folder: by default "rnn_jax" in the user's cache folder, such as ~/.cache or ~/Library/Caches, with a folder for
        each kind of processor.  A cache that JAX has already, as by JAX_COMPILATION_CACHE_DIR, is left as it is.

    Returns:
      The folder that is used.

    Examples:
      >>> from pathlib import Path
      >>> import jax
      >>> from rnn_jax import experiment
      >>> experiment.keep_compiled(Path("compiled")).name
      'compiled'
      >>> jax.config.update("jax_compilation_cache_dir", None)  # JAX keeps nothing again
    """
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    chosen: str | None = jax.config.values["jax_compilation_cache_dir"]
    if chosen is None:
        if folder is None:
            import platformdirs

            kind = hashlib.sha256(processor().encode()).hexdigest()[:12]
            folder = platformdirs.user_cache_path("rnn_jax", appauthor=False) / f"compiled-{kind}"
        chosen = str(folder.absolute())
        jax.config.update("jax_compilation_cache_dir", chosen)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return Path(chosen)
