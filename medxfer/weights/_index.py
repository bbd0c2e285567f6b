"""Finding a file on the package index that pip is set up to use (PEP 503)."""

import ast
import html.parser
import os
import subprocess
import sys
import urllib.parse

from medxfer.weights import _download

_DEFAULT = "https://pypi.org/simple"
_PAGE_BYTES = 2**24


def addresses() -> list[str]:
    """Addresses of pip's indexes: its environment variables, else its configuration, else PyPI."""
    settings = {}
    try:
        command = [sys.executable, "-m", "pip", "config", "list"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        for line in told.stdout.splitlines():
            name, _, value = line.partition("=")
            settings[name] = ast.literal_eval(value)
    except (OSError, subprocess.SubprocessError, ValueError, SyntaxError):
        pass  # no pip here: environment and default remain

    def setting(name: str, default: str) -> list[str]:
        variable = "PIP_" + name.upper().replace("-", "_")
        places = [settings.get(f"{section}.{name}") for section in ("install", "global")]
        return next(filter(None, [os.environ.get(variable), *places]), default).split()

    return setting("index-url", _DEFAULT) + setting("extra-index-url", "")


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
    raise _download.Unavailable("; ".join(reasons))


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]
