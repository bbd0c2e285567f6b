from tests.medxfer.models.numpy_layers import conv, from_keras, lrn, max_pool, relu, rows_first
from tests.testing.model_test_case import ModelTestCase


class TestAlexNetCaffe(ModelTestCase):
    name = "alexnet_caffe"
    parameters = {
        "conv1": 34_944,
        "conv2": 307_456,
        "conv3": 885_120,
        "conv4": 663_936,
        "conv5": 442_624,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "fc8": 12_291,
    }
    network_input = (100 - 104.0, 0 - 117.0, 255 - 123.0)
    gaussian = {
        "conv1": (0.01, 0.0),
        "conv2": (0.01, 0.1),
        "conv3": (0.01, 0.0),
        "conv4": (0.01, 0.1),
        "conv5": (0.01, 0.1),
        "fc6": (0.005, 0.1),
        "fc7": (0.005, 0.1),
        "fc8": (0.01, 0.0),
    }

    def test_shapes_of_table_i(self, model):
        """Tajbakhsh et al. 2016, Table I; here channels last."""
        table = {
            "conv1": (55, 55, 96),
            "pool1": (27, 27, 96),
            "conv2": (27, 27, 256),
            "pool2": (13, 13, 256),
            "conv3": (13, 13, 384),
            "conv4": (13, 13, 384),
            "conv5": (13, 13, 256),
            "pool5": (6, 6, 256),
            "fc6": (4096,),
            "fc7": (4096,),
            "fc8": (3,),
        }
        found = {name: tuple(model.get_layer(name).output.shape[1:]) for name in table}
        assert found == table

    def reference(self, image, parts):
        p = {name: from_keras(arrays) for name, arrays in parts.items() if len(arrays) == 2}
        x = max_pool(lrn(relu(conv(image.transpose(2, 0, 1), *p["conv1"], stride=4))))
        x = max_pool(lrn(relu(conv(x, *p["conv2"], pad=2, groups=2))))
        x = relu(conv(x, *p["conv3"], pad=1))
        x = relu(conv(x, *p["conv4"], pad=1, groups=2))
        x = max_pool(relu(conv(x, *p["conv5"], pad=1, groups=2)))
        x = rows_first(x)
        for name in ("fc6", "fc7"):
            kernel, bias = p[name]
            x = relu(kernel @ x + bias)
        kernel, bias = p["fc8"]
        return kernel @ x + bias
