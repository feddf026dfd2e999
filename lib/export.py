"""A trained network as an ONNX file, for programs without Keras."""

import importlib.util
import json

import keras
import numpy as np

from lib.backends import quietly
from lib.errors import UserError
from lib.files import atomic_write, remove_left_overs_of


def export_onnx(model, path, metadata):
    """Writes a network as ONNX: one size of the input, any number of images at a time.

    Keras's own export, which converts by tf2onnx. Outputs differ from Keras's by rounding alone.

    Args:
        model: keras.Model with its weights.
        path: the file.
        metadata: {name: value} for the model's metadata: pre-processing, classes, threshold; values
            that are no texts are written as JSON.
    Raises:
        UserError: if tf2onnx is missing, or the backend is not TensorFlow.
    """
    missing = [name for name in ("onnx", "tf2onnx") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--export needs the package{'s' * (len(missing) > 1)} {' and '.join(missing)}: "
            'pip install -c constraints.txt ".[export]"'
        )
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"--export needs KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}."
        )
    import onnx

    model(np.zeros((1, *model.input_shape[1:]), np.float32))  # Keras exports what was called once
    remove_left_overs_of(path)
    with atomic_write(path) as beside:
        with quietly():
            model.export(beside, format="onnx", verbose=False)
        network = onnx.load(beside)
        name_ends(network, input="image", output="probabilities")
        for name, value in metadata.items():
            text = value if isinstance(value, str) else json.dumps(value)
            network.metadata_props.add(key=name, value=text)
        onnx.save(network, beside)


def name_ends(network, **names):
    """Names the input and the output of an ONNX model, and the free first axis of both: batch.

    Args:
        network: onnx.ModelProto with one input and one output.
        names: input and output.
    """
    for ends, name in ((network.graph.input, "input"), (network.graph.output, "output")):
        (end,) = ends
        old, end.name = end.name, names[name]
        end.type.tensor_type.shape.dim[0].dim_param = "batch"
        for node in network.graph.node:
            for places in (node.input, node.output):
                for index, place in enumerate(places):
                    if place == old:
                        places[index] = names[name]
