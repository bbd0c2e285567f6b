"""Networks of keras.applications: contract, groups, and the peer itself."""

import keras
import numpy as np
import pytest

from data_prep.errors import UserError
from medxfer import data, models, plugins
from medxfer.config import Config
from medxfer.models._groups import layer_groups
from medxfer.tuning import Stage, freeze
from tests.testing.model_test_case import ModelTestCase

SIDE = 64


class ApplicationTestCase(ModelTestCase):
    """On small images; the head begins with N(0, 0.01)."""

    gaussian = {"head": (0.01, 0.0)}
    peer: str  # in keras.applications
    preprocessing: str  # its module there

    @pytest.fixture(scope="class")
    @classmethod
    def module(cls):
        module = __import__(f"medxfer.models.{cls.name}", fromlist=["build"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "INPUT_SIDE", SIDE)
            yield module

    def test_equals_the_peer_with_the_same_weights(self, model, images):
        """Features of keras.applications, pooled by NumPy, and the head."""
        peer = getattr(keras.applications, self.peer)(
            include_top=False, weights=None, input_shape=(SIDE, SIDE, 3)
        )
        for layer in peer.layers:
            if layer.weights and not isinstance(layer, keras.layers.Normalization):
                layer.set_weights(model.get_layer(layer.name).get_weights())
        kernel, bias = model.get_layer("head").get_weights()
        features = np.asarray(peer(self.for_peer(images))).mean((1, 2))
        expected = features @ kernel + bias
        np.testing.assert_allclose(model(images), expected, atol=2e-4 * np.ptp(expected))

    def for_peer(self, images):
        return images

    def test_preprocessing_is_the_peer_s(self, module):
        rgb = np.random.default_rng(1).uniform(0, 255, (2, 5, 6, 3)).astype("float32")
        expected = getattr(keras.applications, self.preprocessing).preprocess_input(rgb.copy())
        np.testing.assert_allclose(module.preprocess(rgb), expected, atol=1e-4)

    def test_batch_normalisation_rests_where_it_is_frozen(self, module, model, images):
        """Told by class: by name DenseNet's ``bn`` and EfficientNet's would need other rules."""
        groups = layer_groups(model, module.LAYER_GROUPS)
        before = model.get_weights()
        moving = [w.path for w in model.weights if "moving" in w.path]
        stage = Stage("s", dict.fromkeys(groups, 1.0), base_rate=0.1, epochs=1)
        for policy, moves in {"frozen": False, "affine": False, "stats_only": True}.items():
            rule = dict.fromkeys(groups, policy)
            freeze(groups, Stage(**vars(stage) | {"batch_norm": rule}))
            names = {v.name for v in model.trainable_variables}
            assert ("gamma" in names) == (policy == "affine" and bool(moving))
            model(images, training=True)
            changed = [
                w.path
                for w, value in zip(model.weights, before, strict=True)
                if not np.array_equal(w, value)
            ]
            assert changed == (moving if moves else [])
            model.set_weights(before)
        freeze(groups, Stage(**vars(stage) | {"batch_norm": dict.fromkeys(groups, "train")}))

    def test_moving_averages_follow_within_few_steps(self, model, images):
        """A tenth of the batch's mean a step, in every layer."""
        normal = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
        if not normal:
            return
        assert {layer.get_config()["momentum"] for layer in normal} == {0.9}
        before, first = model.get_weights(), normal[0]
        entering = keras.Model(model.inputs, first.input)(images)
        expected = 0.9 * first.moving_mean.numpy() + 0.1 * np.asarray(entering).mean((0, 1, 2))
        model(images, training=True)
        tolerance = 1e-4 * np.ptp(expected)
        np.testing.assert_allclose(first.moving_mean, expected, atol=tolerance)
        model.set_weights(before)


@pytest.mark.slow
class TestResNet50(ApplicationTestCase):
    name, peer, preprocessing = "resnet50", "ResNet50", "resnet50"
    # 25,636,712 with the 2,049,000 of the original head.
    parameters = {
        "conv1": 9_728,
        "conv2": 220_032,
        "conv3": 1_230_336,
        "conv4": 7_129_088,
        "conv5": 14_998_528,
        "head": 6_147,
    }
    network_input = (100 - 103.939, -116.779, 255 - 123.68)

    def test_parameters_are_the_published_ones(self):
        assert sum(self.parameters.values()) - 6_147 + 2049 * 1000 == 25_636_712


@pytest.mark.slow
class TestDenseNet121(ApplicationTestCase):
    name, peer, preprocessing = "densenet121", "DenseNet121", "densenet"
    parameters = {
        "conv1": 9_664,
        "conv2": 372_096,
        "conv3": 1_063_168,
        "conv4": 3_402_240,
        "conv5": 2_190_336,
        "head": 3_075,
    }
    network_input = ((1 - 0.485) / 0.229, -0.456 / 0.224, (100 / 255 - 0.406) / 0.225)

    def test_parameters_are_the_published_ones(self):
        assert sum(self.parameters.values()) - 3_075 + 1025 * 1000 == 8_062_504


class TestVgg19(ApplicationTestCase):
    name, peer, preprocessing = "vgg19", "VGG19", "vgg19"
    parameters = {
        "block1": 38_720,
        "block2": 221_440,
        "block3": 2_065_408,
        "block4": 8_259_584,
        "block5": 9_439_232,
        "head": 1_539,
    }
    network_input = (100 - 103.939, -116.779, 255 - 123.68)
    gaussian = {"head": (0.01, 0.0), "block1_conv2": (np.sqrt(2 / 576), 0.0)}

    def test_parameters_are_the_published_ones(self):
        assert sum(self.parameters.values()) - 1_539 == 20_024_384


@pytest.mark.slow
class TestEfficientNetB0(ApplicationTestCase):
    name, peer, preprocessing = "efficientnetb0", "EfficientNetB0", "efficientnet"
    parameters = {
        "stem": 992,
        "block1": 1_544,
        "block2": 17_770,
        "block3": 48_336,
        "block4": 248_210,
        "block5": 551_116,
        "block6": 2_044_396,
        "block7": 722_480,
        "top": 414_720,
        "head": 3_843,
    }
    network_input = ((1 - 0.485) / 0.229, -0.456 / 0.224, (100 / 255 - 0.406) / 0.225)

    def test_parameters_are_the_published_ones(self):
        # Less the 7 numbers with which the original scales its input.
        assert sum(self.parameters.values()) - 3_843 + 1281 * 1000 == 5_330_571 - 7

    def for_peer(self, images):
        return 255 * images  # which divides by 255 and, without its weights, does no more

    def test_preprocessing_is_the_peer_s(self, module):
        """Whose weights hold it: x / 255, less the mean, over the square root of what they hold."""
        rgb = np.random.default_rng(1).uniform(0, 255, (1, 4, 4, 3)).astype("float32")
        scaled = rgb / 255 - np.float32([0.485, 0.456, 0.406])
        expected = scaled / np.float32([0.229, 0.224, 0.225])
        np.testing.assert_allclose(module.preprocess(rgb), expected, atol=1e-5)


@pytest.mark.parametrize("case", [TestResNet50, TestDenseNet121, TestEfficientNetB0])
def test_groups(case, monkeypatch):
    """All that is quick of the checks above."""
    module = __import__(f"medxfer.models.{case.name}", fromlist=["build"])
    monkeypatch.setattr(module, "INPUT_SIDE", 32)
    model = module.build(3)
    groups = layer_groups(model, module.LAYER_GROUPS)
    found = {name: sum(x.count_params() for x in layers) for name, layers in groups.items()}
    assert list(found.items()) == list(case.parameters.items())
    freeze(groups, Stage("s", dict.fromkeys(groups, 1.0), base_rate=0.1, epochs=1))
    assert {v.name for v in model.trainable_variables} == {"kernel", "bias"}
    assert model.output.dtype == "float32"


@pytest.mark.parametrize("name", ["vgg19", "resnet50"])
def test_another_input_side(name):
    network = models.load(name, 40)
    assert network.INPUT_SIDE == 40 and network.LAYER_GROUPS == models.load(name).LAYER_GROUPS
    model = network.build(3)
    assert model.input_shape == (None, 40, 40, 3) and model.output_shape == (None, 3)
    own = plugins.load("medxfer.models", name)
    assert model.count_params() == own.build(3, side=96).count_params()  # weights fit any side
    assert data.patch_transform(network)(np.zeros((2, 9, 9, 1), np.uint8)).shape == (2, 40, 40, 3)
    assert network.preprocess is own.preprocess


def test_sides_that_are_refused():
    assert models.load("alexnet", 227) is models.load("alexnet")
    assert models.any_side("densenet121") and not models.any_side("alexnet")
    with pytest.raises(UserError, match="alexnet takes images of 227 pixels only"):
        models.load("alexnet", 64)
    with pytest.raises(UserError, match="--input_side must be 0"):
        Config("classify", input_side=16)
