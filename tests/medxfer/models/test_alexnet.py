from tests.medxfer.models.numpy_layers import conv, from_keras, max_pool, relu, rows_first
from tests.testing.model_test_case import ModelTestCase


class TestAlexNet(ModelTestCase):
    name = "alexnet"
    # torchvision.models.alexnet: 61,100,840 with 1000 classes.
    parameters = {
        "conv1": 23_296,
        "conv2": 307_392,
        "conv3": 663_936,
        "conv4": 884_992,
        "conv5": 590_080,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "fc8": 12_291,
    }
    network_input = ((1 - 0.485) / 0.229, -0.456 / 0.224, (100 / 255 - 0.406) / 0.225)
    gaussian = {
        "conv1": (0.01 * 255 * (0.229 + 0.224 + 0.225) / 3, 0.0),
        "conv2": (0.01, 0.1),
        "conv3": (0.01, 0.0),
        "conv4": (0.01, 0.1),
        "conv5": (0.01, 0.1),
        "fc6": (0.005, 0.1),
        "fc7": (0.005, 0.1),
        "fc8": (0.01, 0.0),
    }

    def test_parameters_are_torchvision_s(self):
        head = 4097 * 1000 - self.parameters["fc8"]
        assert sum(self.parameters.values()) + head == 61_100_840

    def reference(self, image, parts):
        p = {name: from_keras(arrays) for name, arrays in parts.items() if len(arrays) == 2}
        x = max_pool(relu(conv(image.transpose(2, 0, 1), *p["conv1"], stride=4, pad=2)))
        x = max_pool(relu(conv(x, *p["conv2"], pad=2)))
        x = relu(conv(x, *p["conv3"], pad=1))
        x = relu(conv(x, *p["conv4"], pad=1))
        x = max_pool(relu(conv(x, *p["conv5"], pad=1)))
        assert x.shape == (256, 6, 6)
        x = rows_first(x)
        for name in ("fc6", "fc7"):
            kernel, bias = p[name]
            x = relu(kernel @ x + bias)
        kernel, bias = p["fc8"]
        return kernel @ x + bias
