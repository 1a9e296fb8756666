"""What mkdocs calls while it builds the site (`mkdocs.yml`)."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from manual import commands, notebooks, reference
from manual.links import COPIES, PAGES, for_site

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie in the root of the repository, and those that are made of notebooks."""
    for source, name in PAGES.items():
        if name not in files.src_uris:
            files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    for file in sorted(notebooks.FOLDER.glob("*.ipynb")):
        text, pictures = notebooks.page(notebooks.read(file), file.stem)
        files.append(File.generated(config, f"notebooks/{file.stem}.md", content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links lead to what is on the site, and fill in what is made of the program itself."""

    def copy(source: str) -> None:
        name = f"{COPIES}/{source}"
        if name not in files.src_uris:
            files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))

    if commands.MARKER in markdown:
        markdown = markdown.replace(commands.MARKER, commands.page())
    markdown = reference.fill(markdown)
    file = Path(page.file.abs_src_path or ROOT / "docs" / page.file.src_uri)
    source = file.relative_to(ROOT).as_posix()
    return for_site(markdown, source, ROOT, copy)
