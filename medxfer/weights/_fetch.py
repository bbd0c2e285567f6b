"""ImageNet weights: from the cache, else from the first source that can be reached."""

import pathlib
import tarfile

from absl import logging

from data_prep.errors import UserError
from medxfer.runs import cache_folder as cache_folder
from medxfer.weights import _contents, _download, _flax, _formats, _index, npz
from medxfer.weights._contents import Contents
from medxfer.weights._sources import SOURCES, Canonical, Packaged, Source


def imagenet(model_name: str, cache: pathlib.Path) -> tuple[Contents, str, str]:
    """ImageNet weights of a network, what they are, and the SHA-256 of their file.

    Raises
    ------
    UserError
        If no source can be reached, saying which were tried, or the cache cannot be written.
    """
    sources = SOURCES.get(model_name, ())
    folder = cache / "weights"
    for source in sources:
        path = folder / _file_name(source)
        if path.exists():
            try:
                return _open(source, path)
            except (_download.Unavailable, UserError) as error:
                logging.warning("%s in the cache is damaged (%s): fetching anew.", path, error)
    reasons = []
    for source in sources:
        path = folder / _file_name(source)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _install(source, path)
        except _download.Unavailable as error:
            logging.info("Passed over %s: %s.", source.about, error)
            reasons.append(f"{source.about} ({error})")
            continue
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error}. Set MEDXFER_CACHE.") from error
        return _open(source, path)
    tried = "Tried: " + "; ".join(reasons) if reasons else "No source is known"
    raise UserError(
        f"ImageNet weights of {model_name} are not to be had. {tried}. Give a file with "
        "--weights=PATH, or begin at random with --weights=none --tune=scratch."
    )


def _file_name(source: Source) -> str:
    match source:
        case Canonical():
            return source.url.rpartition("/")[2]
        case Packaged():
            stem = pathlib.PurePosixPath(source.member).stem
            return f"{source.project}-{stem}-{source.content_digest[:8]}.npz"


def _open(source: Source, path: pathlib.Path) -> tuple[Contents, str, str]:
    """Read a file of the cache, which must be the very one that the source promises."""
    match source:
        case Canonical():
            _download.check(path, source.digest)
            return _formats.read(path), source.about, _formats.sha256(path)
        case Packaged():
            contents = npz.read(path)
            if _contents.digest(contents.layers) != source.content_digest:
                raise _download.Unavailable("its arrays are not the expected ones")
            return contents, source.about, source.member_digest.partition(":")[2]


def _install(source: Source, path: pathlib.Path) -> None:
    """Download a source and put it into the cache as ``path``, whole or not at all."""
    match source:
        case Canonical():
            with _download.download(source.url, source.digest, path.parent) as file:
                file.replace(path)
        case Packaged():
            url = _index.find(source.project, source.archive)
            with _download.download(url, source.archive_digest, path.parent) as archive:
                member = _extract(archive, source.member)
                _download.check(member, source.member_digest)
                contents = _flax.read(member) if member.suffix == ".ckpt" else _formats.read(member)
                names = source.names or {name: name for name in contents.layers}
                layers = {ours: contents.layers[theirs] for ours, theirs in names.items()}
                converted = archive.with_name("converted.npz")
                npz.write(converted, layers)
                converted.replace(path)


def _extract(archive: pathlib.Path, name: str) -> pathlib.Path:
    """Write one member beside its archive."""
    with tarfile.open(archive) as tar:
        target = archive.with_name(pathlib.PurePosixPath(name).name)
        target.write_bytes(tar.extractfile(name).read())
    return target
