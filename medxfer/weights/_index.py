"""Finding a file on the package index that pip is set up to use (PEP 503)."""

import ast
import contextlib
import html.parser
import os
import re
import subprocess
import sys
import urllib.parse

from medxfer.weights import _download

_PAGE_BYTES = 2**24


def addresses() -> list[str]:
    """Addresses of pip's indexes: its environment variables, its configuration, its own default.

    Without pip in this Python and without ``PIP_INDEX_URL`` there are none.
    """
    settings = {}
    for line in _pip("config", "list").splitlines():
        name, _, value = line.partition("=")
        with contextlib.suppress(ValueError, SyntaxError):
            settings[name] = ast.literal_eval(value)

    def setting(name: str) -> list[str]:
        variable = "PIP_" + name.upper().replace("-", "_")
        places = [settings.get(f"{section}.{name}") for section in ("install", "global")]
        return next(filter(None, [os.environ.get(variable), *places]), "").split()

    return (setting("index-url") or _default()) + setting("extra-index-url")


def _default() -> list[str]:
    """The index that pip uses where nothing is configured, as its help states it."""
    text = " ".join(_pip("download", "--help").split())
    return re.findall(r"--index-url <url> [^()]*\(default (https?://[^\s)]+)\)", text)[:1]


def _pip(*words: str) -> str:
    """What pip prints; empty where there is none."""
    command = [sys.executable, "-m", "pip", *words]
    environment = os.environ | {"COLUMNS": "1000"}  # so that no address is broken over lines
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True, env=environment
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def find(project: str, filename: str) -> str:
    """Address of a project's file on the first index that has it.

    Raises
    ------
    Unavailable
        If no index can be reached or none has it; the message says which were asked.
    """
    reasons = []
    for index in addresses():
        page = f"{index.rstrip('/')}/{project}/"
        host = urllib.parse.urlsplit(page).hostname or index
        try:
            with _download.open_url(page) as answer:
                links = _Links()
                links.feed(answer.read(_PAGE_BYTES).decode("utf-8", "replace"))
        except OSError as error:
            reasons.append(f"{host}: {error}")
            continue
        for link in links.found:
            address = urllib.parse.urldefrag(urllib.parse.urljoin(page, link)).url
            if urllib.parse.unquote(address).endswith(f"/{filename}"):
                return address
        reasons.append(f"{host} has no {filename}")
    raise _download.Unavailable(
        "; ".join(reasons) or "pip names no package index: set PIP_INDEX_URL"
    )


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]
