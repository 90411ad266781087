"""Whether the links of a built site lead somewhere: files, anchors, and nothing fetched from elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["broken_links"]

_FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
_NOT_FETCHED = {"canonical", "prev", "next"}


class _Page(HTMLParser):
    """What a page can be linked at, what it links to, and what it fetches."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors = {"", "__top"}
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        for name in ("href", "src"):
            if name in given:
                self.links.append(given[name])
                if (tag, name) in _FETCHED and given.get("rel") not in _NOT_FETCHED:
                    self.fetched.append(given[name])


def broken_links(site: Path) -> list[str]:
    """Return a line for each link of the site that leads nowhere, and for each thing fetched from elsewhere.

    Links to other sites are looked at for their form alone: nothing is fetched.
    """
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        place = path.relative_to(site).as_posix()
        found += [f"{place}: {link} {wrong}" for link in page.links if (wrong := _wrong(link, path, pages, site))]
        found += [f"{place}: {link} is fetched from elsewhere" for link in page.fetched if urlsplit(link).netloc]
    return found


def _wrong(link: str, page: Path, pages: dict[Path, _Page], site: Path) -> str:
    parts = urlsplit(link)
    if parts.scheme in {"http", "https"}:
        return "" if "." in parts.netloc and " " not in link else "is not an address"
    if parts.scheme:
        return "" if parts.scheme in {"mailto", "data"} else "has a scheme of its own"
    # The page that says "not found" is served at any address, so its links begin at the root.
    start = site if parts.path.startswith("/") else page.parent
    target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else page
    if not target.is_file():
        return "leads to no file"
    anchors = pages[target].anchors if target in pages else set()
    return "" if not parts.fragment or unquote(parts.fragment) in anchors else "leads to no anchor"
