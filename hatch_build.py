"""The project page of a package index: README.md with links that lead somewhere there too."""

import re
import runpy
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# Code, which stays; or a link or picture: a target with a colon is a full address already, one with # is on the page.
_PART = re.compile(r"```.*?```|`[^`]*`|(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#:][^)\s:]*)\)", re.DOTALL)


def for_index(text: str, source: str | None, version: str) -> str:
    """Return a README as an index can show it, which has none of the files beside it.

    Args:
        text: Markdown whose relative links start at the root of the repository.
        source: the address of the repository, or None, where it is not known: then relative links become their text,
            and pictures are left out.
        version: whose tag, ``v`` before it, the links lead to.
    """

    def replace(part: re.Match[str]) -> str:
        mark, words, target = part["picture"], part["text"], part["target"]
        if target is None:
            return part[0]
        if source is None:
            return "" if mark else words
        return f"{mark}[{words}]({source.rstrip('/')}/{'raw' if mark else 'blob'}/v{version}/{target})"

    return re.sub(r"\n{3,}", "\n\n", _PART.sub(replace, text))


class ReadmeHook(MetadataHookInterface):
    """Fills in the field ``readme``, which `pyproject.toml` calls dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the README for an index into the project's metadata, with the address in ``project.urls``, if any."""
        root = Path(self.root)
        version = runpy.run_path(str(root / "src/svdistill/version.py"))["__version__"]
        text = for_index((root / "README.md").read_text("utf-8"), metadata.get("urls", {}).get("Source"), version)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
