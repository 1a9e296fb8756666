"""Links that read well in the repository, turned into what they are on the site."""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

# Files of the repository's root that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "RELEASING.md": "releasing.md",
}
# Where the site keeps copies of other files that pages lead to.
COPIES = "files"
# Code, which stays; or a link: its text, its target, and what follows # in it.
_PART = re.compile(
    r"(?P<code>^(?P<fence>`{3,}).*?^(?P=fence)|`[^`\n]+`)|(?P<mark>!?)\[(?P<text>(?:`[^`]*`|[^\]`])*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)",
    re.DOTALL | re.MULTILINE,
)
_ADDRESS = re.compile(r"[a-z]+:")


def title(page: Path) -> str:
    """Return the first heading of a page."""
    return page.read_text("utf-8").partition("# ")[2].partition("\n")[0]


def for_site(text: str, page: str, root: Path, copy: Callable[[str], None]) -> str:
    """Return the Markdown of a page with links that lead somewhere on the site.

    Args:
        text: Markdown whose links are relative to the file, as GitHub follows them.
        page: that file, relative to the root of the repository: ``docs/start.md``, ``CONTRIBUTING.md``.
        root: the root of the repository.
        copy: told of each file outside `docs/` that the site has to have a copy of, by its path from the root.

    Returns:
        The text. A link to another page, or to a notebook, leads to that page, and where its text is the file's name,
        that becomes the page's title; one to a file beside `docs/` leads to its copy below ``files/``; of a link to a
        folder, or to nothing that is there, only the text is left.
    """
    here = PurePosixPath(PAGES.get(page, page.removeprefix("docs/")))

    def replace(part: re.Match[str]) -> str:
        if part["code"] or _ADDRESS.match(part["target"]):
            return part[0]
        target = normpath(str(PurePosixPath(page).parent / part["target"]))
        if (root / target).is_dir():
            return part["text"]
        if target.startswith("docs/"):
            found = re.sub(r"\.ipynb$", ".md", target.removeprefix("docs/"))
        elif target in PAGES:
            found = PAGES[target]
        elif (root / target).is_file() and not target.endswith(".md"):
            copy(target)
            found = f"{COPIES}/{target}"
        else:
            return part["text"]
        named = target.endswith(".md") and PurePosixPath(part["text"]).name == PurePosixPath(target).name
        words = title(root / target) if named else part["text"]
        return f"{part['mark']}[{words}]({relpath(found, here.parent)}{part['anchor'] or ''})"

    return _PART.sub(replace, text)
