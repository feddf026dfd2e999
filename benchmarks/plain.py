"""The plain way that everybody writes, to measure against.

The network literally channels_first in float32, `model.fit` and `model.predict` on arrays held in
memory, one-hot masks, and loops over patches and pixels where the original has them. Written anew
from what retina-unet does; nothing is slowed down on purpose. The network's forward pass is the
same as lib.unet.get_unet's, so weights go from one to the other.
"""

import keras
import numpy as np
from keras import layers
from sklearn.metrics import (
    auc,
    confusion_matrix,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

PATCH = 48
BATCH = 32


def get_unet(size=PATCH):
    """Builds the network as it stands in retina-unet, every layer channels_first."""
    inputs = keras.Input((1, size, size))
    skip1 = _block(inputs, 32)
    skip2 = _block(layers.MaxPooling2D(2, data_format="channels_first")(skip1), 64)
    x = _block(layers.MaxPooling2D(2, data_format="channels_first")(skip2), 128)
    x = layers.UpSampling2D(2, data_format="channels_first")(x)
    x = _block(layers.concatenate([x, skip2], axis=1), 64)
    x = layers.UpSampling2D(2, data_format="channels_first")(x)
    x = _block(layers.concatenate([x, skip1], axis=1), 32)
    x = layers.Conv2D(2, 1, activation="relu", padding="same", data_format="channels_first")(x)
    x = layers.Permute((2, 1))(layers.Reshape((2, size * size))(x))
    model = keras.Model(inputs, layers.Activation("softmax")(x))
    model.compile(optimizer="sgd", loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def _block(x, filters):
    options = {"activation": "relu", "padding": "same", "data_format": "channels_first"}
    x = layers.Conv2D(filters, 3, **options)(x)
    return layers.Conv2D(filters, 3, **options)(layers.Dropout(0.2)(x))


# ---------------------------------------------------------------- before the training


def extract_random(rng, images, masks, num_patches):
    """Copies random patches of images and masks into arrays, image after image."""
    patches = np.empty((num_patches, 1, PATCH, PATCH))
    patches_masks = np.empty((num_patches, 1, PATCH, PATCH))
    height, width = images.shape[2:]
    half, number = PATCH // 2, 0
    for i in range(len(images)):
        for _ in range(num_patches // len(images)):
            x = rng.integers(half, width - half, endpoint=True)
            y = rng.integers(half, height - half, endpoint=True)
            rows, columns = slice(y - half, y + half), slice(x - half, x + half)
            patches[number] = images[i, :, rows, columns]
            patches_masks[number] = masks[i, :, rows, columns]
            number += 1
    return patches[:number], patches_masks[:number]


def masks_unet(masks):
    """Turns masks (N, 1, H, W) into one-hot (N, H * W, 2), pixel by pixel."""
    flat = masks.reshape(len(masks), -1)
    one_hot = np.empty((*flat.shape, 2))
    for i in range(flat.shape[0]):
        for j in range(flat.shape[1]):
            if flat[i, j] == 0:
                one_hot[i, j, 0] = 1
                one_hot[i, j, 1] = 0
            else:
                one_hot[i, j, 0] = 0
                one_hot[i, j, 1] = 1
    return one_hot


# ---------------------------------------------------------------- testing


def paint_border_overlap(images, stride):
    """Pads with zeros below and on the right until patches at this stride fill the images."""
    height, width = images.shape[2:]
    padded = np.zeros(
        (len(images), 1, height + -(height - PATCH) % stride, width + -(width - PATCH) % stride)
    )
    padded[:, :, :height, :width] = images
    return padded


def extract_ordered_overlap(padded, stride):
    """Copies all overlapping patches into one array."""
    height, width = padded.shape[2:]
    rows, columns = range(0, height - PATCH + 1, stride), range(0, width - PATCH + 1, stride)
    patches = np.empty((len(padded) * len(rows) * len(columns), 1, PATCH, PATCH))
    number = 0
    for i in range(len(padded)):
        for h in rows:
            for w in columns:
                patches[number] = padded[i, :, h : h + PATCH, w : w + PATCH]
                number += 1
    return patches


def pred_to_imgs(predictions):
    """Takes the vessel's probability out of (N, H * W, 2), pixel by pixel."""
    probabilities = np.empty(predictions.shape[:2])
    for i in range(predictions.shape[0]):
        for pixel in range(predictions.shape[1]):
            probabilities[i, pixel] = predictions[i, pixel, 1]
    return probabilities.reshape(-1, 1, PATCH, PATCH)


def recompone_overlap(patches, height, width, stride):
    """Averages overlapping patches into images of the padded height and width."""
    rows, columns = range(0, height - PATCH + 1, stride), range(0, width - PATCH + 1, stride)
    num_images = len(patches) // (len(rows) * len(columns))
    full_prob = np.zeros((num_images, 1, height, width))
    full_sum = np.zeros((num_images, 1, height, width))
    number = 0
    for i in range(num_images):
        for h in rows:
            for w in columns:
                full_prob[i, :, h : h + PATCH, w : w + PATCH] += patches[number]
                full_sum[i, :, h : h + PATCH, w : w + PATCH] += 1
                number += 1
    return full_prob / full_sum


def predict_stride(model, images, stride):
    """Predicts images (N, 1, H, W) by overlapping patches -> probabilities alike."""
    height, width = images.shape[2:]
    padded = paint_border_overlap(images, stride)
    patches = extract_ordered_overlap(padded, stride)
    predictions = model.predict(patches, batch_size=BATCH, verbose=0)
    averaged = recompone_overlap(pred_to_imgs(predictions), *padded.shape[2:], stride)
    return averaged[:, :, :height, :width]


def kill_border(images, fov_masks):
    """Sets everything outside the FOV to 0, pixel by pixel."""
    num_images, _, height, width = images.shape
    for i in range(num_images):
        for x in range(width):
            for y in range(height):
                if not _inside_fov(i, x, y, fov_masks):
                    images[i, :, y, x] = 0.0


def pred_only_fov(probabilities, ground_truth, fov_masks):
    """Collects the pixels inside the FOV, pixel by pixel."""
    num_images, _, height, width = probabilities.shape
    inside, inside_truth = [], []
    for i in range(num_images):
        for x in range(width):
            for y in range(height):
                if _inside_fov(i, x, y, fov_masks):
                    inside.append(probabilities[i, :, y, x])
                    inside_truth.append(ground_truth[i, :, y, x])
    return np.concatenate(inside), np.concatenate(inside_truth)


def _inside_fov(i, x, y, fov_masks):
    if x >= fov_masks.shape[3] or y >= fov_masks.shape[2]:
        return False
    return fov_masks[i, 0, y, x] > 0


def figures(probability, truth):
    """Computes the original's scores of pixels inside the FOV with scikit-learn."""
    false_positive_rate, true_positive_rate, _ = roc_curve(truth, probability)
    auc_roc = roc_auc_score(truth, probability)
    precision, recall, _ = precision_recall_curve(truth, probability)
    predicted = np.empty(len(probability))
    for i in range(len(probability)):
        if probability[i] >= 0.5:
            predicted[i] = 1
        else:
            predicted[i] = 0
    return {
        "curve": len(false_positive_rate) + len(true_positive_rate),
        "auc_roc": float(auc_roc),
        "auc_pr": float(auc(recall, precision)),
        "confusion_matrix": confusion_matrix(truth, predicted).tolist(),
        "f1": float(f1_score(truth, predicted)),
    }
