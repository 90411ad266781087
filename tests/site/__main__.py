"""Build the docs as a site, and follow its links: `python -m tests.site [folder]`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.house.pages import ROOT
from tests.site.links import broken_links
from tests.site.staging import stage

STAGED = ROOT / "build" / "site"
BOUND = 300.0
"""Seconds after which a build is stopped: nothing here may hang."""


def main(arguments: list[str]) -> int:
    """Build the site into a folder, `site` unless another is given; return 1 if a link of it is broken."""
    site = Path(arguments[0] if arguments else ROOT / "site").resolve()
    shutil.rmtree(STAGED, ignore_errors=True)
    shutil.rmtree(site, ignore_errors=True)
    stage(STAGED)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(STAGED / "mkdocs.yml")]
    subprocess.run(command, check=True, timeout=BOUND)
    shutil.copytree(STAGED / "html", site)
    _add_markdown(site)
    broken = broken_links(site)
    print(*broken, f"{len(list(site.rglob('*.html')))} pages in {site}, {len(broken)} broken links", sep="\n")
    return 1 if broken else 0


def _add_markdown(site: Path) -> None:
    # Each page also as it was written, for readers that are programs; llms.txt names them.
    pages = STAGED / "pages"
    for page in pages.rglob("*.md"):
        if "docstrings" not in page.parts:
            shutil.copyfile(page, site / page.relative_to(pages))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
