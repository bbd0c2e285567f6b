"""VGG-19 (Simonyan and Zisserman 2015) as ``keras.applications`` has it, with a head of its own.

Global average pooling and one dense layer stand for the two dense layers of 4096 units.
"""

import keras

from medxfer.models import _applications

INPUT_SIDE = 224
# Validation losses on 236 X-rays, ft and block5: .0001 .22 .16; .0003 .40 .82; .001 ln 2, inf.
RATE = 0.0001
INIT = "xavier"  # with inputs up to 151, msra and gaussian begin at a loss of 128

LAYER_GROUPS = {
    **{name: (name,) for name in ("block1", "block2", "block3", "block4", "block5")},
    _applications.HEAD: (_applications.HEAD,),
}

# What weight files of keras.applications and torchvision hold beyond these layers.
FOREIGN_LAYERS = ("fc1", "fc2", "predictions", "classifier.0", "classifier.3", "classifier.6")

# torchvision's names of the convolutions, in order.
TORCH_LAYERS = tuple(
    f"features.{k}" for k in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
)

preprocess = _applications.caffe_input


def build(
    classes: int, init: str = "gaussian", seed: int = 0, dropout: float = 0.5, side: int = 0
) -> keras.Model:
    """float32 (N, side, side, 3) -> logits (N, ``classes``); :func:`_applications.build`."""

    def backbone(image):
        return keras.applications.VGG19(include_top=False, weights=None, input_tensor=image)

    return _applications.build(backbone, "vgg19", side or INPUT_SIDE, classes, init, seed, dropout)
