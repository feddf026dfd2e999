"""Two experiments on noise, of a size that a script trains in seconds."""

import numpy as np

from lib.files import write_hdf5

RETINA = """\
[data paths]
path_local = ./retina/
train_imgs_original = imgs_train.hdf5
train_groundTruth = groundTruth_train.hdf5
train_border_masks = borderMasks_train.hdf5
test_imgs_original = imgs_test.hdf5
test_groundTruth = groundTruth_test.hdf5
test_border_masks = borderMasks_test.hdf5
[experiment name]
name = tiny
[data attributes]
patch_height = 16
patch_width = 16
[training settings]
N_subimgs = 40
inside_FOV = False
N_epochs = {num_epochs}
batch_size = 8
nohup = False
output_activation = linear
optimizer = sgd
{training}
[testing settings]
best_last = last
full_images_to_test = 2
N_group_visual = 1
average_mode = True
stride_height = 8
stride_width = 8
nohup = False
{testing}
"""

MEMBRANE = """\
[data paths]
path_local = ./membrane/
train_imgs_original = imgs_train.hdf5
train_groundTruth = groundTruth_train.hdf5
train_weight_maps = weightMaps_train.hdf5
test_imgs_original = imgs_test.hdf5
[experiment name]
name = tiny_membrane
task = membrane
[data attributes]
tile_size = 44
[training settings]
N_tiles = 6
validation_images = 1
N_epochs = {num_epochs}
batch_size = 2
nohup = False
optimizer = sgd
base_filters = 2
depth = 2
{training}
[testing settings]
best_last = last
N_group_visual = 1
tile_size = 44
nohup = False
{testing}
"""


def write_retina(folder, training="", testing="", num_epochs=1):
    """Writes data and configuration.txt: images of 64 x 48 pixels whose vessels are dark rows."""
    rng = np.random.default_rng(0)
    for subset, number in (("train", 2), ("test", 2)):
        images = rng.integers(100, 200, (number, 3, 64, 48), dtype=np.uint8)
        vessels = np.zeros((number, 1, 64, 48), np.uint8)
        vessels[:, :, ::8] = 255
        images[:, :, ::8] //= 3
        write_hdf5(folder / "retina" / f"imgs_{subset}.hdf5", images)
        write_hdf5(folder / "retina" / f"groundTruth_{subset}.hdf5", vessels)
        masks = np.full_like(vessels, 255)
        write_hdf5(folder / "retina" / f"borderMasks_{subset}.hdf5", masks)
    path = folder / "configuration.txt"
    path.write_text(RETINA.format(training=training, testing=testing, num_epochs=num_epochs))
    return path


def write_membrane(folder, training="", testing="", num_epochs=1):
    """Writes data and configuration.txt: slices of 40 x 48 pixels with membranes on a grid."""
    rng = np.random.default_rng(0)
    images = rng.integers(150, 255, (3, 1, 40, 48), dtype=np.uint8)
    cells = np.full_like(images, 255)
    cells[..., ::10, :] = cells[..., ::10] = 0
    images[cells == 0] //= 3
    write_hdf5(folder / "membrane" / "imgs_train.hdf5", images)
    write_hdf5(folder / "membrane" / "groundTruth_train.hdf5", cells)
    weights = np.where(cells == 0, 2, 0.5).astype(np.float32)
    write_hdf5(folder / "membrane" / "weightMaps_train.hdf5", weights)
    path = folder / "configuration_membrane.txt"
    path.write_text(MEMBRANE.format(training=training, testing=testing, num_epochs=num_epochs))
    return path
