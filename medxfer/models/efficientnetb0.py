"""EfficientNet-B0 (Tan and Le 2019) as ``keras.applications`` has it, with a head of its own.

Its scaling of the input is done by :func:`preprocess`; stochastic depth stays.
"""

import keras

from medxfer.models import _applications, _layers

INPUT_SIDE = 224
RATE = 0.001  # from scratch on 236 X-rays: training loss .65 to .52; no weights were at hand
INIT = "gaussian"

_BLOCKS = ("1a", "2ab", "3ab", "4abc", "5abc", "6abcd", "7a")

LAYER_GROUPS = {
    "stem": ("stem",),
    **{f"block{b[0]}": tuple(f"block{b[0]}{part}" for part in b[1:]) for b in _BLOCKS},
    "top": ("top",),
    _applications.HEAD: (_applications.HEAD,),
}

# What weight files of keras.applications hold beyond these layers.
FOREIGN_LAYERS = ("normalization", "predictions")

preprocess = _applications.torch_input


def build(
    classes: int, init: str = "gaussian", seed: int = 0, dropout: float = 0.5, side: int = 0
) -> keras.Model:
    """float32 (N, side, side, 3) -> logits (N, ``classes``); :func:`_applications.build`."""

    def own(layer: keras.Layer) -> keras.Layer:
        """The same layer anew; stochastic depth is off where frozen, and seeded."""
        config = layer.get_config()
        if isinstance(layer, keras.layers.Dropout):
            return _layers.Dropout(**config | {"seed": _layers.layer_seed(seed, layer.name)})
        return type(layer).from_config(config)

    def backbone(image: keras.KerasTensor) -> keras.Model:
        whole = keras.applications.EfficientNetB0(
            include_top=False, weights=None, input_tensor=image
        )
        scaled = whole.get_layer("stem_conv_pad").input
        plain = keras.Model(scaled, whole.outputs[0])
        return keras.models.clone_model(plain, clone_function=own, input_tensors=image)

    return _applications.build(
        backbone, "efficientnetb0", side or INPUT_SIDE, classes, init, seed, dropout
    )
