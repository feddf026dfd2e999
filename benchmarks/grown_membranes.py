"""Grows pretrained/membranes_held_out: weights of a larger network from which a training goes on.

    python -m benchmarks.grown_membranes wider wider.weights.h5
    python -m benchmarks.grown_membranes deeper deeper.weights.h5

"wider" has twice the filters, each doubled (Net2Net: Chen, Goodfellow, Shlens 2016); "deeper" one
level more, whose convolutions begin as the identity. The network answers what it did before, but
for the noise without which doubled filters would learn the same. A copy of its configuration with
initial_weights and base_filters = 32, or depth = 5 and tiles of 572, trains on (docs/RESULTS.md).
"""

import argparse

import keras
import numpy as np

from lib.errors import run_script
from lib.experiment import locate
from lib.overlap_tile import margin
from lib.unet import get_unpadded_unet

SOURCE = "pretrained/membranes_held_out/membranes_held_out_last.weights.h5"
FILTERS, DEPTH = 16, 4


def main():
    """Reads the command line and writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=["wider", "deeper"])
    parser.add_argument("output", help="weights file to write")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    network = build(FILTERS, DEPTH)
    network.load_weights(locate(SOURCE))
    grow = {"wider": wider, "deeper": deeper}[arguments.way]
    grow(network, FILTERS, DEPTH).save_weights(locate(arguments.output))


def build(filters, depth):
    """Builds the network for the smallest tile: its weights fit tiles of any size."""
    side = 2 * margin(depth) + 4
    return get_unpadded_unet(1, side, side, base_filters=filters, depth=depth)


def wider(network, filters, depth, noise=0.05):
    """Gives the network with every filter twice.

    Args:
        network: as build gives it.
        filters: its base filters.
        depth: its depth.
        noise: standard deviation of what weights are multiplied by, around 1.
    Returns:
        keras.Model.
    """
    rng, grown = np.random.default_rng(0), build(2 * filters, depth)
    for old, new in zip(_with_weights(network), _with_weights(grown), strict=True):
        weights = []
        for weight, like in zip(old.get_weights(), new.get_weights(), strict=True):
            for axis, (length, wanted) in enumerate(zip(weight.shape, like.shape)):
                weight = np.repeat(weight, wanted // length, axis)
            if weight.ndim == 4:
                # Keras has the channels that come in last but one, of a transposed kernel last.
                axis = 3 if isinstance(old, keras.layers.Conv2DTranspose) else 2
                weight = weight * old.get_weights()[0].shape[axis] / weight.shape[axis]
                weight = weight * (1 + noise * rng.standard_normal(weight.shape))
            weights.append(weight)
        new.set_weights(weights)
    return grown


def deeper(network, filters, depth, noise=0.1):
    """Gives the network with a level more, which at first changes nothing.

    Args:
        network: as build gives it.
        filters: its base filters.
        depth: its depth.
        noise: by which the first kernels of the two convolutions behind the new skip are
            multiplied; what is beyond them starts at random.
    Returns:
        keras.Model.
    """
    grown = build(filters, depth + 1)
    old, new = _with_weights(network), _with_weights(grown)
    num_down = 2 * (depth + 1)  # convolutions down to the lowest level, which gets a skip
    for source, target in zip(old[:num_down], new[:num_down], strict=True):
        target.set_weights(source.get_weights())
    for source, target in zip(old[num_down:], new[num_down + 5 :], strict=True):
        target.set_weights(source.get_weights())
    lowest = filters * 2**depth
    # Behind the up-convolution of the new level: [it, the skip] -> the skip -> the skip.
    for layer, first in ((new[num_down + 3], lowest), (new[num_down + 4], 0)):
        kernel, bias = layer.get_weights()
        kernel *= noise
        kernel[:, :, first : first + lowest] *= noise
        kernel[1, 1, first + np.arange(lowest), np.arange(lowest)] += 1
        layer.set_weights([kernel, np.zeros_like(bias)])
    return grown


def _with_weights(network):
    return [layer for layer in network.layers if layer.weights]


if __name__ == "__main__":
    raise SystemExit(run_script(main))
