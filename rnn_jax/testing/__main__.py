"""Print the conformance matrix of the installed version, or write it into a file between its markers."""

import argparse
import sys
from pathlib import Path

from rnn_jax.checks import InputError
from rnn_jax.testing.matrix import markdown, rows, split, write


def main() -> int:
    """Exit status 1 if a claim fails, 2 for a file without the markers."""
    parser = argparse.ArgumentParser(prog="python -m rnn_jax.testing", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="a file with the matrix's two marker lines")
    path: Path | None = parser.parse_args().write
    try:
        if path is not None:
            split(path.read_text())
        found = list(rows())
        table = markdown(found)
        if path is not None:
            write(path, table)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table)
    return int(not all(result.ok for *_, results in found for result in results.values()))


sys.exit(main())
