"""A process of its own for onnx2tf, which sets environment variables and random seeds and ends processes on errors.

python -P onnx_to_saved_model.py graph.onnx target_folder --batch 1 [--keras]; batch 0 leaves the batch free.
"""

from __future__ import annotations

import argparse
from typing import Any

INPUT = "x"


def main() -> None:
    """Convert the ONNX file to a SavedModel that is called with (B, H, W, C) and answers with a list of tensors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--keras", action="store_true")
    options = parser.parse_args()
    network = converted(options.source, options.target)
    if options.keras:
        with_batch(network, options.batch or None).save(options.target, save_format="tf")
    else:
        save(network, options.target, options.batch or None)


def converted(source: str, folder: str) -> Any:
    """The graph as a Keras model with images (B, H, W, C) and all outputs as in ONNX.

    The batch of the ONNX input has to be free: onnx2tf fetches test images from the internet for fixed ones.
    """
    import onnx
    import onnx2tf

    model = onnx.load(source)
    network = onnx2tf.convert(
        onnx_graph=model,
        output_folder_path=folder,
        not_use_onnxsim=True,  # torch's exporter has simplified it
        disable_group_convolution=True,  # TensorFlow has them for GPUs only
        disable_strict_mode=True,  # the whole export is compared with PyTorch afterwards
        disable_model_save=True,
        non_verbose=True,
    )
    return channels_first(network, [output.name for output in model.graph.output])


def channels_first(network: Any, names: list[str]) -> Any:
    """The model with its outputs in the order of `names`, and maps (B, H, W, C) as (B, C, H, W)."""
    import tf_keras

    outputs = dict(zip(network.output_names, network.outputs, strict=True))
    ordered = [outputs[name] for name in names]
    turn = tf_keras.layers.Permute((3, 1, 2))
    return tf_keras.Model(network.inputs, [turn(output) if output.shape.rank == 4 else output for output in ordered])


def with_batch(network: Any, batch: int | None) -> Any:
    """The Keras model with the batch that its graph takes, None where that is free."""
    import tf_keras

    images = tf_keras.Input(batch_shape=(batch, *network.inputs[0].shape[1:]), name=INPUT)
    return tf_keras.Model(images, network(images))


def save(network: Any, target: str, batch: int | None) -> None:
    """Write a SavedModel without Keras: `loaded(images)` and the signature `serving_default`."""
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
