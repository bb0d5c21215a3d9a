"""A page as a test reads it."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def asks_for_nothing(html: str, tags: Tags) -> bool:
    """Whether a browser would ask for nothing but the page itself."""
    for _, attributes in tags.found:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:", "#")), value[:60]
    assert "@import" not in html
    assert not re.search(r"url\((?!['\"]?(#|data:))", html)
    assert all("src" not in script for script in tags.of("script"))
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket", html)
    # Names of XML vocabularies are all that is left of the web.
    rest = re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)
    assert not re.findall(r"https?://[^\s\"'<]+", rest)
    return True
