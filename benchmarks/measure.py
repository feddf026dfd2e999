"""Measures in a process of its own: KERAS_BACKEND decides on the engine, before Keras loads.

    python -m benchmarks.measure '{"precision": "float32", "backend": "tensorflow", ...}'

benchmarks.run starts it. For every line of JSON on the standard input, such as {"name": "training",
"way": "plain"}, it measures once and answers with a line of JSON, so that two processes can take
turns. What the measured code prints goes to the standard error.
"""

import contextlib
import json
import os
import resource
import sys
import time
import tracemalloc
from types import SimpleNamespace

import keras
import numpy as np

from benchmarks import plain
from lib.configuration import read_configuration
from lib.devices import convolves_channels_first, start_computing
from lib.evaluation import binary_scores, pred_only_FOV, rank_pixels, roc_and_pr_curves
from lib.extract_patches import (
    draw_patch_positions,
    full_image_tile,
    num_overlap_patches,
    pad_to_multiple,
    predict_full_image,
    predict_overlap,
)
from lib.patch_dataset import TileDataset
from lib.pre_processing import preprocess
from lib.training import get_optimizer
from lib.unet import NETWORKS
from lib.weights import read_weights
from src.retinaNN_predict import FULL_IMAGE_MULTIPLE, load_predictor
from src.retinaNN_training import build_network
from src.tasks import TASKS

PATCH = (plain.PATCH, plain.PATCH)
BATCH = plain.BATCH


def main():
    """Sets the engine up, then measures once for every line of the standard input."""
    shared = json.loads(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):
        start_computing(0, shared["precision"] == "bfloat16")
        if not convolves_channels_first():
            sys.exit("TensorFlow needs AVX512_VNNI for the plain way, which is channels_first.")
        shared["weights"] = read_weights(shared["weights"])
        shared["arrays"] = dict(np.load(shared["data"]))
        shared["configuration"] = read_configuration("configuration.txt", TASKS)
    print(json.dumps("ready"), flush=True)
    set_up = {}
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            if line not in set_up:
                task = SimpleNamespace(**shared, **json.loads(line))
                set_up[line] = MEASUREMENTS[task.name](task)
                answer = {}
            else:
                answer = set_up[line]()
        print(json.dumps({**answer, "peak_memory_MB": peak_memory()}), flush=True)


def peak_memory():
    """Gives the most memory this process ever held, in MB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def seconds_of(function, *arguments):
    """Calls a function -> (seconds, its result)."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def count_operations(model):
    """Counts the floating-point operations of a prediction: 2 for each product in a convolution.

    Bias, activation, pooling and softmax are left out: below 1 % of the work.
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            pixels = np.prod(layer.output.shape[1:]) // layer.filters
            total += 2 * int(np.prod(layer.kernel.shape)) * int(pixels)
    return total


# ---------------------------------------------------------------- the machine's limit


def matrix_product(task):
    """Multiplies large square matrices with the engine that the networks run on."""
    sizes = [256] if task.quick else [2048, 4096]
    products = [_product(task, size) for size in sizes]
    for product in products:
        product()  # compiles

    def measure():
        rates = []
        for size, product in zip(sizes, products):
            seconds = min(seconds_of(product)[0] for _ in range(3))
            rates.append(2 * size**3 / seconds / 1e9)
        return {"gflops": max(rates)}

    return measure


def _product(task, size):
    a, b = np.random.default_rng(0).random((2, size, size), np.float32)
    if task.way == "numpy":
        return lambda: a @ b
    if task.backend == "openvino":
        import openvino
        from openvino import opset13 as ops

        left = ops.parameter([size, size], np.float32)
        model = openvino.Model([ops.matmul(left, ops.constant(b), False, False)], [left])
        hint = {"INFERENCE_PRECISION_HINT": "bf16" if task.precision == "bfloat16" else "f32"}
        compiled = openvino.Core().compile_model(model, "CPU", hint)
        return lambda: compiled([a])
    import tensorflow as tf

    a, b = tf.cast(a, task.precision), tf.cast(b, task.precision)
    # One number comes back, so that the product is finished when the clock is read.
    return lambda: tf.linalg.matmul(a, b)[0, 0].numpy()


# ---------------------------------------------------------------- training


def training(task):
    """Trains on patches for an epoch: the plain way from arrays, ours from the images."""
    num_patches = BATCH * (2 if task.quick else 15)
    images, truth = task.arrays["train_images"], task.arrays["train_ground_truth"]
    if task.way == "plain":
        model = plain.get_unet()
        patches, masks = plain.extract_random(np.random.default_rng(0), images, truth, num_patches)
        fed = {"x": patches, "y": plain.masks_unet(masks), "batch_size": BATCH}
    else:
        model = _compiled_network(task)
        fed = {"x": _patch_dataset(images, truth, num_patches)}

    epoch = EpochTimer()

    def fit():
        model.fit(**fed, epochs=1, verbose=0, callbacks=[epoch])
        return epoch.seconds

    fit()  # compiles

    def measure():
        answer = {"seconds": fit(), "patches": num_patches}
        return answer if task.way == "plain" else {**answer, **_parts_of_a_step(model, fed["x"])}

    return measure


class EpochTimer(keras.callbacks.Callback):
    """Times an epoch, without what TensorFlow takes to close its pipeline when fit has ended."""

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Stops it."""
        self.seconds = time.perf_counter() - self.start


def _parts_of_a_step(model, dataset):
    """Times a step on a batch that is there already, and the cutting of one: seconds."""
    steps, batch = len(dataset), dataset[0]
    model.train_on_batch(*batch)  # compiles
    held, _ = seconds_of(lambda: [model.train_on_batch(*batch) for _ in range(steps)])
    cut, _ = seconds_of(lambda: [dataset[index] for index in range(steps)])
    return {"held": held / steps, "cut": cut / steps}


def _compiled_network(task):
    settings = task.configuration.training_settings
    model = build_network(task.configuration, *PATCH)
    model.compile(
        optimizer=get_optimizer(settings, num_steps=1000),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def _patch_dataset(images, truth, num_patches):
    rng = np.random.default_rng(0)
    positions = draw_patch_positions(rng, num_patches, truth, *PATCH, False)
    return TileDataset(
        list(images),
        list(truth[:, 0]),
        None,
        positions,
        input_size=PATCH,
        batch_size=BATCH,
        shuffle=True,
    )


def preparation(task):
    """Prepares patches and labels: materialised with one-hot masks, or drawn and cut in batches."""
    images, truth = task.arrays["train_images"], task.arrays["train_ground_truth"]
    number = 60 if task.quick else task.num_patches

    def prepare_plain(number):
        _patches, masks = plain.extract_random(np.random.default_rng(0), images, truth, number)
        plain.masks_unet(masks)

    def cut_all(dataset):
        for index in range(len(dataset)):
            dataset[index]

    def measure():
        if task.way == "plain":
            seconds, _ = seconds_of(prepare_plain, number)
            fewer = max(20, number // 200 * 20)  # a multiple of the images; tracing takes time
            return {
                "seconds": seconds,
                "patches": number,
                "allocated_MB": number / fewer * allocated_MB(prepare_plain, fewer),
            }
        drawn, dataset = seconds_of(_patch_dataset, images, truth, number)
        seconds, _ = seconds_of(cut_all, dataset)
        return {
            "seconds_before_first_step": drawn,
            "seconds": drawn + seconds,
            "patches": number,
            "allocated_MB": allocated_MB(lambda: cut_all(_patch_dataset(images, truth, number))),
            "images_MB": (images.nbytes + truth.nbytes) / 2**20,
        }

    return measure


def allocated_MB(function, *arguments):
    """Gives the most memory that Python and NumPy held at once during a call, in MB."""
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- testing


def _plain_network(task):
    model = plain.get_unet()
    task.weights.load_into(model)
    return model


def stride5(task):
    """Predicts a strip of an image at stride 5: patches cut, predicted, averaged."""
    image = task.arrays["images"][0]
    top = image.shape[1] // 2 - PATCH[0] // 2
    strip = image[:, top : top + PATCH[0] + (5 if task.quick else 45), : 64 if task.quick else None]
    number = num_overlap_patches(strip.shape[1:], PATCH, (5, 5))
    predict = _stride_predictor(task)
    operations = count_operations(build_network(task.configuration, *PATCH))
    predict(strip, 5)  # compiles

    def measure():
        seconds = seconds_of(predict, strip, 5)[0]
        return {"seconds": seconds, "patches": number, "operations_per_patch": operations}

    return measure


def _stride_predictor(task):
    """Gives a function (1, H, W), stride, perhaps the FOV (H, W) bool -> (H, W) of a way."""
    if task.way == "plain":
        model = _plain_network(task)
        return lambda image, stride: plain.predict_stride(model, image[np.newaxis], stride)[0, 0]
    predictor = load_predictor(task.configuration, task.weights)

    def predict(image, stride, inside=None):
        return predict_overlap(predictor, image, PATCH, (stride, stride), inside=inside)[0]

    return predict


def image(task):
    """Tests one image from the pre-processed pixels to its scores; ours also inside_FOV = True."""
    one = {name: task.arrays[name][:1] for name in ("images", "ground_truth", "fov_masks")}
    masks = one["ground_truth"], one["fov_masks"]
    arguments = [one["images"][0], 24 if task.quick else 5]
    predict = _stride_predictor(task)
    predict(one["images"][0][:, : PATCH[0], : PATCH[1]], arguments[1])  # compiles
    evaluate = {"plain": _plain_figures}.get(task.way, _our_figures)

    def test(*arguments):
        seconds, probability = seconds_of(predict, *arguments)
        more, figures = seconds_of(evaluate, probability[np.newaxis, np.newaxis], *masks)
        return {"seconds": seconds + more, "seconds_of_figures": more, **figures}

    def measure():
        if task.way == "plain":
            return test(*arguments)
        return {**test(*arguments), "inside_FOV": test(*arguments, masks[1][0, 0] > 0)}

    return measure


def _plain_figures(probabilities, ground_truth, fov_masks):
    plain.kill_border(probabilities, fov_masks)
    return plain.figures(*plain.pred_only_fov(probabilities, ground_truth, fov_masks))


def _our_figures(probabilities, ground_truth, fov_masks):
    inside, truth = pred_only_FOV(probabilities, ground_truth > 0, fov_masks)
    curves = roc_and_pr_curves(rank_pixels(truth, inside))
    return binary_scores(truth, inside, curves=curves)


def figures(task):
    """Turns an array of predictions into the scores inside the FOV; one image the plain way."""
    number = 1 if task.way == "plain" else len(task.arrays["images"])
    truth, masks = task.arrays["ground_truth"][:number], task.arrays["fov_masks"][:number]
    noise = np.random.default_rng(0).normal(0, 0.2, truth.shape)
    predictions = np.clip(0.2 + 0.6 * truth + noise, 0, 1).astype(np.float32)
    evaluate = _plain_figures if task.way == "plain" else _our_figures

    def measure():
        seconds, result = seconds_of(evaluate, predictions.copy(), truth, masks)
        return {"seconds": seconds, "images": number, "auc_roc": result["auc_roc"]}

    return measure


def whole_images(task):
    """Predicts all test images, each in one pass, and computes the scores."""
    arrays, predict = task.arrays, _whole_predictor(task)
    predict(arrays["images"][:1])  # compiles

    def measure():
        seconds, probabilities = seconds_of(predict, arrays["images"])
        result = _our_figures(probabilities, arrays["ground_truth"], arrays["fov_masks"])
        number = len(arrays["images"])
        return {"seconds": seconds / number, "images": number, "auc_roc": result["auc_roc"]}

    return measure


def _whole_predictor(task):
    """Gives images -> probabilities in one pass, as src.retinaNN_predict; builds each size once."""
    network = NETWORKS[task.configuration.training_settings.network]
    predictor = load_predictor(task.configuration, task.weights)

    def predict_one(image):
        padded = pad_to_multiple(image, max(FULL_IMAGE_MULTIPLE, network.multiple))
        tile = full_image_tile(padded.shape[1:], network.reach, network.multiple)
        predicted = predict_full_image(predictor, padded, tile, network.reach, network.multiple)
        return predicted[:, : image.shape[1], : image.shape[2]]

    return lambda images: np.stack([predict_one(image) for image in images])


# ---------------------------------------------------------------- cost curves


def curve(task):
    """Measures time and memory while one thing grows: task.along names it."""
    steps = iter(CURVES[task.along](task))

    def measure():
        return next(steps, {})

    return measure


def _along_images(task):
    photographs, predict = task.arrays["photographs"], _whole_predictor(task)

    def test(number):
        """Goes from photographs to scores, each image in one pass."""
        masks = (task.arrays[name][:number] for name in ("ground_truth", "fov_masks"))
        return _our_figures(predict(preprocess(photographs[:number])), *masks)

    test(2)  # compiles
    for number in (2, 4) if task.quick else (2, 5, 20):
        repeats = max(1, 10 // number)
        # The mean, for the best of many short runs would look faster than one long run.
        seconds = sum(seconds_of(test, number)[0] for _ in range(repeats)) / repeats
        yield {"x": number, "seconds": seconds, "unit": seconds / number}


def _along_pixels(task):
    photograph = task.arrays["photographs"][:1]
    predict = _whole_predictor(task)
    for side in (1, 2) if task.quick else (0.5, 1, 2, 3):
        image = _resized(photograph, side)
        predict(image)  # compiles
        seconds = min(seconds_of(predict, image)[0] for _ in range(2))
        yield {
            "x": f"{image.shape[3]} x {image.shape[2]}",
            "seconds": seconds,
            "unit": seconds / (image.shape[2] * image.shape[3] / 1e6),
        }


def _resized(photograph, side):
    """Repeats or cuts an image to sides `side` times as long, pre-processed."""
    height, width = (int(side * size) for size in photograph.shape[2:])
    repeats = -(-height // photograph.shape[2]), -(-width // photograph.shape[3])
    return preprocess(np.tile(photograph, (1, 1, *repeats))[:, :, :height, :width])


def _along_stride(task):
    image = task.arrays["images"][0][:, : 64 if task.quick else 200, : 64 if task.quick else 200]
    predict = _stride_predictor(task)
    predict(image, 48)  # compiles
    for stride in (48, 16) if task.quick else (48, 24, 12, 8, 5):
        number = num_overlap_patches(image.shape[1:], PATCH, (stride, stride))
        seconds = seconds_of(predict, image, stride)[0]
        yield {"x": stride, "seconds": seconds, "unit": seconds / number}


def _along_batch(task):
    predictor = load_predictor(task.configuration, task.weights)
    sizes = (1, 4) if task.quick else (1, 8, 32, 128, 512)
    patches = np.random.default_rng(0).random((max(sizes), 1, *PATCH), np.float32)
    for size in sizes:
        predictor(patches[:size])  # compiles
        seconds = min(
            seconds_of(predictor, patches[:size])[0] for _ in range(2 if size > 32 else 8)
        )
        yield {"x": size, "seconds": seconds, "unit": seconds / size}


def _along_patches(task):
    images, truth = task.arrays["train_images"], task.arrays["train_ground_truth"]
    for number in (200, 400) if task.quick else (1_900, 19_000, 190_000, 1_900_000):
        number -= number % len(images)
        seconds, dataset = seconds_of(_patch_dataset, images, truth, number)
        batches = range(min(len(dataset), 200))
        cutting = seconds_of(lambda d=dataset, b=batches: [len(d[i]) for i in b])[0] / len(batches)
        yield {"x": number, "seconds": seconds, "unit": cutting}


CURVES = {
    "images": _along_images,
    "pixels": _along_pixels,
    "stride": _along_stride,
    "batch": _along_batch,
    "patches": _along_patches,
}


# ---------------------------------------------------------------- where the time goes


def profile_stride5(task):
    """Splits stride 5 into the network, and the cutting, adding and averaging of patches."""
    image = task.arrays["images"][0][:, : 64 if task.quick else 80]
    inside = []
    predictor = load_predictor(task.configuration, task.weights)

    def timed(patches):
        seconds, result = seconds_of(predictor, patches)
        inside.append(seconds)
        return result

    predict_overlap(timed, image, PATCH, (5, 5))  # compiles

    def measure():
        inside.clear()
        whole = seconds_of(predict_overlap, timed, image, PATCH, (5, 5))[0]
        number = num_overlap_patches(image.shape[1:], PATCH, (5, 5))
        return {
            "predicting, all": whole / number,
            "the network": sum(inside) / number,
            "cutting, adding, averaging": (whole - sum(inside)) / number,
        }

    return measure


MEASUREMENTS = {
    function.__name__: function
    for function in (
        matrix_product,
        training,
        preparation,
        stride5,
        image,
        figures,
        whole_images,
        curve,
        profile_stride5,
    )
}


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
