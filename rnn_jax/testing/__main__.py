"""Print the conformance matrix of the installed version, or write the tables of a page between their markers."""

import argparse
import sys
from pathlib import Path

from rnn_jax.checks import InputError
from rnn_jax.testing import tables


def main() -> int:
    """Exit status 1 if a claim fails, 2 for a file without markers."""
    parser = argparse.ArgumentParser(prog="python -m rnn_jax.testing", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="README.md, docs/conformance.md, or one like them")
    path: Path | None = parser.parse_args().write
    written, holds = {}, True
    try:
        names = ["conformance matrix"] if path is None else tables.require_names(path.read_text(encoding="utf-8"))
        if "registries" in names:
            written["registries"] = tables.registries()
        if "conformance matrix" in names:
            written["conformance matrix"], holds = tables.conformance_matrix()
        if path is not None:
            tables.write(path, written)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(written.values()))
    return int(not holds)


sys.exit(main())
