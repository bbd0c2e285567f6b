"""Downloads that give up soon when nobody answers, and arrive whole or not at all."""

import base64
import contextlib
import hashlib
import http.client
import os
import pathlib
import queue
import ssl
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator

import tqdm
from absl import logging

from medxfer.weights._contents import MAX_BYTES

_ANSWER_SECONDS = 5  # name lookup, connection and first answer together
_STALL_SECONDS = 30  # every further piece
_LOG_SECONDS = 10  # between lines of progress where there is no terminal
_PIECE = 2**20


class Unavailable(OSError):
    """Nobody answered, or something other than the expected file came."""


def check(path: pathlib.Path, digest: str) -> None:
    """Compare a file with ``algorithm:hex``.

    Raises
    ------
    Unavailable
        If it is another file.
    """
    algorithm, _, expected = digest.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != expected:
        raise Unavailable(f"its {algorithm} is {found[:16]}..., not {expected[:16]}...")


def open_url(url: str) -> http.client.HTTPResponse:
    """Open an address; a user and password in it are sent as HTTP basic authentication.

    Raises
    ------
    Unavailable
        If no positive answer comes within a few seconds.
    """
    parts = urllib.parse.urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(bare, headers={"User-Agent": "medxfer"})
    if parts.username:
        user = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
        secret = base64.b64encode(user.encode()).decode()
        # Not repeated to another host on redirection.
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=_STALL_SECONDS, context=_tls()))
        except Exception as error:  # re-raised below, in the caller's thread
            answers.put(error)

    # Name lookup knows no time limit, hence a thread that can be left behind.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        raise Unavailable(f"no answer within {_ANSWER_SECONDS} s") from None
    if isinstance(answer, Exception):
        raise Unavailable(str(getattr(answer, "reason", answer))) from answer
    return answer


@contextlib.contextmanager
def download(url: str, digest: str, folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Download into ``folder`` for the length of a ``with`` block; move the file to keep it.

    Raises
    ------
    Unavailable
        If the file does not come, or is not the one with ``digest``.
    """
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    with tempfile.TemporaryDirectory(dir=folder, prefix="partial-") as partial:
        path = pathlib.Path(partial, name)
        with open_url(url) as answer, path.open("wb") as file:
            for piece in _progress(answer, f"{name} from {urllib.parse.urlsplit(url).hostname}"):
                file.write(piece)
        check(path, digest)
        yield path


def _progress(answer: http.client.HTTPResponse, what: str) -> Iterator[bytes]:
    """Pieces of a download, told by a bar on a terminal and by lines in a log."""
    total = int(answer.headers.get("Content-Length") or 0)
    terminal = sys.stderr.isatty()
    logging.info("Downloading %s (%.0f MiB).", what, total / 2**20)
    done, told = 0, time.monotonic()
    with tqdm.tqdm(total=total or None, unit="B", unit_scale=True, disable=not terminal) as bar:
        while True:
            try:
                piece = answer.read(_PIECE)
            except (OSError, http.client.HTTPException) as error:
                raise Unavailable(f"broke off after {done / 2**20:.0f} MiB ({error})") from error
            if not piece:
                return
            done += len(piece)
            if done > MAX_BYTES:
                raise Unavailable("it does not end")
            bar.update(len(piece))
            if not terminal and time.monotonic() - told > _LOG_SECONDS:
                told = time.monotonic()
                logging.info("%.0f of %.0f MiB of %s.", done / 2**20, total / 2**20, what)
            yield piece


def _tls() -> ssl.SSLContext:
    """The system's certificates and those that other tools' variables name."""
    context = ssl.create_default_context()
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"):
        bundle = os.environ.get(variable, "")
        if os.path.isfile(bundle):
            context.load_verify_locations(cafile=bundle)
        elif os.path.isdir(bundle):
            context.load_verify_locations(capath=bundle)
    return context
