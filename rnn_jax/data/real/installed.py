"""Files that an installed package brings along, found without importing it."""

import importlib.metadata
from pathlib import Path

from rnn_jax.checks import InputError


def installed_file(package: str, path: str) -> Path:
    """A file of an installed distribution.

    Args:
      package: the distribution's name, as for pip.
      path: the file's path inside of it, with slashes.

    Returns:
      The path of the file on this machine.

    Raises:
      InputError: the package is not installed, or its version has no such file.

    Examples:
      >>> from rnn_jax.data.real.installed import installed_file
      >>> installed_file("numpy", "numpy/__init__.py").name
      '__init__.py'
      >>> installed_file("no-such-package", "numbers.csv")
      Traceback (most recent call last):
      ...
      rnn_jax.checks.InputError: the package no-such-package is not installed; pip install 'rnn-jax[real]'
    """
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"the package {package} is not installed; pip install 'rnn-jax[real]'") from None
    file = Path(str(distribution.locate_file(path)))
    if not file.is_file():
        raise InputError(f"{package} {distribution.version} has no file {path}; pip install -U 'rnn-jax[real]'")
    return file
