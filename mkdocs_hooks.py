"""Hooks of mkdocs, for what a page of the repository and a page of the site write in different ways.

- A link to the README becomes one to the overview, which gets the README's table of symbols.  The site has no other
  file of the repository, so other links out of ``docs/`` become text.
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
    markdown = ENTRY.sub(_entry, OUTSIDE.sub(_link, markdown))
    return f"{markdown}\n{_notation()}" if page.file.src_uri == "index.md" else markdown


def _link(link: re.Match[str]) -> str:
    text, file, anchor = link.groups()
    return f"[{text}](index.md{anchor or ''})" if file == "README.md" else text


def _entry(entry: re.Match[str]) -> str:
    name = entry[1]
    for package in ("cells", "gradients"):
        if (ROOT / "rnn_jax" / package / f"{name}.py").exists():
            return f"::: rnn_jax.{package}.{name}.{name}\n    options:\n      heading: rnn_jax.{name}"
    return entry[0]


def _notation() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Notation\n.*?(?=^## )", text, re.DOTALL | re.MULTILINE)
    if section is None:
        raise ValueError("README.md has no section Notation, to which the pages refer")
    return section[0]
