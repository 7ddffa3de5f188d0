"""Conversion of ONNX to a TensorFlow SavedModel with onnx2tf.

Runs as a separate process: onnx2tf sets environment variables and random seeds and exits on errors.
`python -P onnx_to_saved_model.py graph.onnx target_folder --batch 1 [--keras]`; batch 0 is a dynamic batch.
"""

from __future__ import annotations

import argparse
from typing import Any

INPUT = "x"


def main() -> None:
    """Convert the ONNX file to a SavedModel from images (B, H, W, C) to a list of tensors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--keras", action="store_true")
    options = parser.parse_args()
    network = convert(options.source, options.target)
    if options.keras:
        set_batch(network, options.batch or None).save(options.target, save_format="tf")
    else:
        save(network, options.target, options.batch or None)


def convert(source: str, folder: str) -> Any:
    """Convert the graph to a Keras model from images (B, H, W, C) to the outputs of the ONNX graph.

    The ONNX input needs a dynamic batch: for fixed ones onnx2tf downloads test images.
    """
    import onnx
    import onnx2tf

    model = onnx.load(source)
    network = onnx2tf.convert(
        onnx_graph=model,
        output_folder_path=folder,
        not_use_onnxsim=True,  # already simplified by the exporter
        disable_group_convolution=True,  # TensorFlow supports them on GPUs only
        disable_strict_mode=True,  # verify.py compares the whole export
        disable_model_save=True,
        non_verbose=True,
    )
    return to_channels_first(network, [output.name for output in model.graph.output])


def to_channels_first(network: Any, names: list[str]) -> Any:
    """Order the outputs as `names` and permute maps (B, H, W, C) to (B, C, H, W)."""
    import tf_keras

    outputs = dict(zip(network.output_names, network.outputs, strict=True))
    ordered = [outputs[name] for name in names]
    permute = tf_keras.layers.Permute((3, 1, 2))
    return tf_keras.Model(network.inputs, [permute(output) if output.shape.rank == 4 else output for output in ordered])


def set_batch(network: Any, batch: int | None) -> Any:
    """Set the batch size of the Keras model; None is a dynamic batch."""
    import tf_keras

    images = tf_keras.Input(batch_shape=(batch, *network.inputs[0].shape[1:]), name=INPUT)
    return tf_keras.Model(images, network(images))


def save(network: Any, target: str, batch: int | None) -> None:
    """Write a plain SavedModel, with `__call__` and the signature `serving_default`."""
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec((batch, *network.inputs[0].shape[1:]), tf.float32, name=INPUT)
    module.network = network
    module.__call__ = tf.function(lambda x: list(tf.nest.flatten(network(x))), input_signature=[spec])
    signature = tf.function(
        lambda x: {f"output_{i}": value for i, value in enumerate(tf.nest.flatten(network(x)))}, input_signature=[spec]
    )
    tf.saved_model.save(module, target, signatures={"serving_default": signature})


if __name__ == "__main__":
    main()
