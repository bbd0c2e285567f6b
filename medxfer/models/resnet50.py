"""ResNet-50 (He et al. 2016) as ``keras.applications`` has it, with a head of its own."""

import keras

from medxfer.models import _applications

INPUT_SIDE = 224
# From scratch on 236 X-rays, validation losses after 6 epochs: .0003 .62; .001 4.8; .003 78. No
# ImageNet weights were at hand.
RATE = 0.0003
INIT = "gaussian"

# The stem and the four stages.
LAYER_GROUPS = {
    **{name: (name,) for name in ("conv1", "conv2", "conv3", "conv4", "conv5")},
    _applications.HEAD: (_applications.HEAD,),
}

# What weight files of keras.applications hold beyond these layers.
FOREIGN_LAYERS = ("predictions",)

preprocess = _applications.caffe_input


def build(
    classes: int, init: str = "gaussian", seed: int = 0, dropout: float = 0.5, side: int = 0
) -> keras.Model:
    """float32 (N, side, side, 3) -> logits (N, ``classes``); :func:`_applications.build`."""

    def backbone(image):
        return keras.applications.ResNet50(include_top=False, weights=None, input_tensor=image)

    return _applications.build(
        backbone, "resnet50", side or INPUT_SIDE, classes, init, seed, dropout
    )
