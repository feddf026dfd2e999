"""Losses and metrics of segmentations in any number of classes; ignored pixels count nowhere.

Networks give (B, H*W, K) probabilities, data give class numbers and, where pixels count unequally,
weights. A pixel whose label is IGNORE has weight 0, whatever its own weight is.
"""

import keras
import numpy as np
from keras import ops

from lib.class_metrics import IGNORE

LOSSES = ("cross_entropy", "dice", "dice_cross_entropy")


def get_loss(name, *, dice_weight=1.0, cross_entropy_weight=0.8, class_weights=None):
    """Gives the loss of a name.

    Args:
        name: "cross_entropy", "dice", or "dice_cross_entropy", their weighted sum.
        dice_weight: weight of the Dice loss in the sum.
        cross_entropy_weight: weight of the cross-entropy in the sum.
        class_weights: weight of each class in the cross-entropy, as balanced_weights gives them;
            None weighs all pixels alike.
    Returns:
        SegmentationLoss.
    Raises:
        ValueError: if the name is unknown.
    """
    weights = {
        "cross_entropy": (0.0, 1.0),
        "dice": (1.0, 0.0),
        "dice_cross_entropy": (dice_weight, cross_entropy_weight),
    }
    if name not in weights:
        raise ValueError(f"loss must be one of {LOSSES}. Received: {name}")
    return SegmentationLoss(*weights[name], class_weights, name=name)


@keras.saving.register_keras_serializable(package="unet")
class SegmentationLoss(keras.losses.Loss):
    """A weighted sum of soft Dice loss and cross-entropy.

    Cross-entropy: sum(w * -log p) / sum(w) over the pixels of the batch, p the probability of the
    true class and w the pixel's weight times that of its class.

    Dice: 1 - the mean over the classes of (2 sum(w p t) + 1) / (sum(w p) + sum(w t) + 1), over the
    pixels of the batch together, t being 1 where the class is true (Milletari et al. 2016, V-Net,
    without the squares; Zhou et al. 2018 add half of a binary cross-entropy). The 1 keeps a class
    that is nowhere in the batch from deciding the loss. Classes count alike, so class weights do
    not enter. A batch of ignored pixels alone costs 0 in the cross-entropy and in Dice, and has no
    gradient.

    Args:
        dice_weight: weight of the Dice loss, >= 0.
        cross_entropy_weight: weight of the cross-entropy, >= 0.
        class_weights: weight of each class in the cross-entropy; None for 1 each.
        name: of the loss.
    """

    def __init__(
        self, dice_weight=1.0, cross_entropy_weight=0.8, class_weights=None, name="segmentation"
    ):
        super().__init__(name=name, reduction="mean", dtype="float32")
        self.dice_weight = float(dice_weight)
        self.cross_entropy_weight = float(cross_entropy_weight)
        self.class_weights = class_weights and [float(weight) for weight in class_weights]

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Computes the loss of a batch.

        Not `call`, because Keras hands the weights to what reduces a loss a pixel, and Dice has
        none a pixel.

        Args:
            y_true: (B, H*W) or (B, H, W) class numbers, IGNORE for ignored pixels.
            y_pred: (B, H*W, K) probabilities.
            sample_weight: of y_true's shape, >= 0; None for 1.
        Returns:
            one float32 number.
        """
        y_pred = ops.cast(y_pred, "float32")
        labels, weights = labels_and_weights(y_true, y_pred, sample_weight)
        loss = 0.0
        if self.dice_weight:
            loss += self.dice_weight * dice_loss(labels, y_pred, weights)
        if self.cross_entropy_weight:
            if self.class_weights:
                balance = ops.convert_to_tensor(self.class_weights, "float32")
                # Not in place: PyTorch still needs the weights that Dice took.
                weights = weights * ops.take(balance, labels)
            # No reshape of y_pred: TensorFlow finds the logits behind it, which cannot saturate.
            entropies = ops.sparse_categorical_crossentropy(labels, y_pred)
            loss += self.cross_entropy_weight * _weighted_mean(entropies, weights)
        # The mean of one number, in which Keras shares the loss among TensorFlow's devices.
        loss = ops.reshape(loss, (1,))
        return super().__call__(loss, loss)

    def call(self, y_true, y_pred):
        """Gives the loss of the batch, (1,), which both are."""
        return y_pred

    def get_config(self):
        """Gives what makes an equal loss."""
        return {
            "name": self.name,
            "dice_weight": self.dice_weight,
            "cross_entropy_weight": self.cross_entropy_weight,
            "class_weights": self.class_weights,
        }


def labels_and_weights(y_true, y_pred, sample_weight=None):
    """Gives labels that are all classes, and the weights that take the ignored ones out.

    Args: as SegmentationLoss takes them.

    Returns:
        labels (B, H*W) int32 in [0, K), weights (B, H*W) float32.
    """
    shape = ops.shape(y_pred)[:-1]
    labels = ops.cast(ops.reshape(y_true, shape), "int32")
    counts = ops.not_equal(labels, IGNORE)
    weights = ops.cast(counts, "float32")
    if sample_weight is not None:
        weights = weights * ops.cast(ops.reshape(sample_weight, shape), "float32")
    return ops.where(counts, labels, 0), weights


def dice_loss(labels, probabilities, weights):
    """Computes the soft Dice loss of a batch: see SegmentationLoss.

    Args:
        labels: (B, H*W) int32 in [0, K).
        probabilities: (B, H*W, K) float32.
        weights: (B, H*W) float32.
    Returns:
        one number in [0, 1).
    """
    weights = ops.expand_dims(weights, -1)
    truth = weights * ops.one_hot(labels, probabilities.shape[-1], dtype="float32")
    pixels = (0, 1)
    shared = ops.sum(truth * probabilities, pixels)  # (K,)
    both = ops.sum(truth, pixels) + ops.sum(weights * probabilities, pixels)
    return 1.0 - ops.mean((2.0 * shared + 1.0) / (both + 1.0))


def balanced_weights(class_counts):
    """Weighs classes so that each has the same part in the cross-entropy.

    scikit-learn's class_weight="balanced": all pixels / (occurring classes * pixels of the class).

    Args:
        class_counts: number of training pixels of each class, without ignored ones.
    Returns:
        list of K numbers; 0 for a class that never occurs. The mean weight of a pixel is 1.
    Raises:
        ValueError: if there are no pixels at all.
    """
    counts = np.asarray(class_counts, np.float64)
    if not counts.sum() > 0:
        raise ValueError(f"class_counts must hold some pixels. Received: {class_counts}")
    share = np.divide(counts.sum(), counts, out=np.zeros_like(counts), where=counts > 0)
    return (share / np.count_nonzero(counts)).tolist()


def segmentation_metrics(num_classes):
    """Gives the metrics of every epoch: accuracy, cross_entropy and mean_iou, without weights.

    mean_iou is that of one confusion matrix of all pixels of the epoch; classes in neither truth
    nor prediction are left out. Where the loss is not the cross-entropy,
    lib.callbacks.PlateauDetector watches this one.
    """
    return [
        PixelMean("accuracy"),
        PixelMean("cross_entropy"),
        # Counted in float32: the int32 that JAX and PyTorch would take ends at 2^31 pixels.
        keras.metrics.MeanIoU(
            num_classes, "mean_iou", "float32", ignore_class=IGNORE, sparse_y_pred=False
        ),
    ]


@keras.saving.register_keras_serializable(package="unet")
class PixelMean(keras.metrics.Mean):
    """The mean over all pixels of an epoch that are not ignored.

    Args:
        name: "accuracy" or "cross_entropy": of what.
        dtype: of the sums; float32.
    """

    def __init__(self, name, dtype="float32"):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch; arguments as SegmentationLoss takes them."""
        y_pred = ops.cast(y_pred, "float32")
        labels, weights = labels_and_weights(y_true, y_pred, sample_weight)
        if self.name == "accuracy":
            values = ops.cast(ops.equal(ops.argmax(y_pred, -1), labels), "float32")
        else:
            values = ops.sparse_categorical_crossentropy(labels, y_pred)
        # One number a batch: a float32 sum over millions of pixels one by one would stand still.
        return super().update_state(_weighted_mean(values, weights), sample_weight=ops.sum(weights))


def _weighted_mean(values, weights):
    """Gives sum(w * v) / sum(w); 0 where nothing has a weight."""
    total = ops.sum(weights)
    return ops.sum(weights * values) / ops.where(total > 0, total, 1.0)
