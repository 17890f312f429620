"""Hooks of mkdocs, for what a page of the repository and a page of the site write in different ways.

- The site has no file of the repository but the pages, so links out of ``docs/`` become text, and one to the README
  becomes a link to the overview.
- A function such as ``rnn_jax.lstm``, which has the name of its module, is looked up in that module.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")
ENTRY = re.compile(r"^::: rnn_jax\.(\w+)$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page as the site shows it."""
    return ENTRY.sub(_entry, OUTSIDE.sub(_link, markdown))


def _link(link: re.Match[str]) -> str:
    text, file, anchor = link.groups()
    return f"[{text}](index.md{anchor or ''})" if file == "README.md" else text


def _entry(entry: re.Match[str]) -> str:
    name = entry[1]
    for package in ("cells", "gradients"):
        if (ROOT / "rnn_jax" / package / f"{name}.py").exists():
            return f"::: rnn_jax.{package}.{name}.{name}\n    options:\n      heading: rnn_jax.{name}"
    return entry[0]
