"""DenseNet-121 (Huang et al. 2017) as ``keras.applications`` has it, with a head of its own."""

import keras

from medxfer.models import _applications

INPUT_SIDE = 224
RATE = 0.001  # from scratch on 236 X-rays: training loss .72 to .44; no weights were at hand
INIT = "gaussian"

# The stem and the dense blocks, each with the transition behind it, the last with the final
# normalisation.
LAYER_GROUPS = {
    "conv1": ("conv1",),
    "conv2": ("conv2", "pool2"),
    "conv3": ("conv3", "pool3"),
    "conv4": ("conv4", "pool4"),
    "conv5": ("conv5", "bn"),
    _applications.HEAD: (_applications.HEAD,),
}

# What weight files of keras.applications hold beyond these layers.
FOREIGN_LAYERS = ("predictions",)

# torchvision's names of the layers with weights, in order.
TORCH_LAYERS = (
    "features.conv0",
    "features.norm0",
    *(
        f"features.{name}"
        for block, depth in enumerate((6, 12, 24, 16), 1)
        for name in (
            *(
                f"denseblock{block}.denselayer{layer + 1}.{part}"
                for layer in range(depth)
                for part in ("norm1", "conv1", "norm2", "conv2")
            ),
            *(f"transition{block}.{part}" for part in ("norm", "conv") if block < 4),
        )
    ),
    "features.norm5",
    "classifier",
)

preprocess = _applications.torch_input


def build(
    classes: int, init: str = "gaussian", seed: int = 0, dropout: float = 0.5, side: int = 0
) -> keras.Model:
    """float32 (N, side, side, 3) -> logits (N, ``classes``); :func:`_applications.build`."""

    def backbone(image):
        return keras.applications.DenseNet121(include_top=False, weights=None, input_tensor=image)

    return _applications.build(
        backbone, "densenet121", side or INPUT_SIDE, classes, init, seed, dropout
    )
