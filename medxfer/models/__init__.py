"""Networks: one file each, found by its name."""

import dataclasses
import inspect
from types import ModuleType

from data_prep.errors import UserError
from medxfer import plugins


@dataclasses.dataclass(frozen=True)
class Resized:
    """A network's module, but for inputs of another side."""

    module: ModuleType
    INPUT_SIDE: int

    def __getattr__(self, name: str) -> object:
        return getattr(self.module, name)

    def build(self, classes: int, **options: object) -> object:
        """The module's own ``build``, with the side."""
        return self.module.build(classes, side=self.INPUT_SIDE, **options)


def any_side(name: str) -> bool:
    """Whether a network takes inputs of any side: it ends in global average pooling."""
    return "side" in inspect.signature(plugins.load("medxfer.models", name).build).parameters


def load(name: str, side: int = 0) -> ModuleType | Resized:
    """A network by its name: ``build``, ``preprocess``, ``INPUT_SIDE``, ``LAYER_GROUPS``.

    Parameters
    ----------
    name : str
    side : int
        Of the input in pixels; 0: the one that the network was made for.

    Raises
    ------
    UserError
        If there is no such network, or it takes inputs of one side only: its dense layers read
        maps of one size.
    """
    module = plugins.load("medxfer.models", name)
    if side in (0, module.INPUT_SIDE):
        return module
    if not any_side(name):
        raise UserError(
            f"{name} takes images of {module.INPUT_SIDE} pixels only: leave --input_side away, or "
            "take a network that ends in global average pooling, such as --model=vgg19."
        )
    return Resized(module, side)
