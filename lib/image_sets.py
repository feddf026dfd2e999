"""Images of any sizes with their labels in one HDF5 file, read by the part.

A file holds `images/0`, `images/1`, ... of (C, H, W) uint8 or uint16 with the attributes `id` and
`limits`, `labels/<n>` (H, W) uint8 of class numbers and 255 for ignored pixels, perhaps
`instances/<n>` (H, W) int32 of object numbers, and lists beside them. Each is cut into chunks, so
that a tile is read without its image.
"""

from contextlib import ExitStack

import h5py
import numpy as np

from lib.class_metrics import IGNORE
from lib.errors import UserError
from lib.files import atomic_write, new_hdf5, open_hdf5, own_part, remove_left_overs_of
from lib.label_images import Classes
from lib.pre_processing import image_limits, percentiles

SCRIPT = "python prepare_datasets_folder.py FOLDER"
FORMAT = "images of any sizes, 1"
CHUNK = 128  # side of a chunk in pixels
# Which values of an image become 0 and 1: see channel_limits.
SCALINGS = ("auto", "type", "image")
# Of more channels than a picture in colours has, each is scaled by itself.
MOST_COLOUR_CHANNELS = 3


# ---------------------------------------------------------------- scale


def channel_limits(image, rule="auto"):
    """Finds the values that are scaled to 0 and 1, of an image by itself.

    type: the range of the type, 0 and 255 or 65535. image: the 0.1 and 99.9 percentiles of the
    image; of each channel by itself where there are more than 3, because these are no colours.
    auto: type for 8 bits, image for 16 bits, which cameras rarely fill.

    Args:
        image: (C, H, W) uint8 or uint16.
        rule: one of SCALINGS.
    Returns:
        (C, 2) float32.
    """
    find = {"type": _type_limits, "image": percentiles, "auto": image_limits}[rule]
    if len(image) > MOST_COLOUR_CHANNELS:
        return np.array([find(channel) for channel in image], np.float32)
    return np.array([find(image)] * len(image), np.float32)


def _type_limits(image):
    return 0, np.iinfo(image.dtype).max


def scaled(image, limits):
    """Scales an image, or a part of it, to [0, 1].

    Args:
        image: (C, H, W) uint8 or uint16.
        limits: (C, 2), as channel_limits gives them.
    Returns:
        (C, H, W) float32; 0 where the limits are the same.
    """
    lowest, highest = limits.T[..., None, None]
    values = image.astype(np.float32)
    values -= lowest
    values /= np.where(highest > lowest, highest - lowest, 1)
    return np.clip(values, 0, 1, out=values)


# ---------------------------------------------------------------- writing


def write_image_sets(sets, classes, *, has_instances=False, scaling="auto", size=None):
    """Writes files of images; all appear when all are whole.

    Args:
        sets: {path: iterable of (id, image, label, instances)}: image (C, H, W) uint8 or uint16,
            label (H, W) uint8 of classes and IGNORE, instances (H, W) int32. Label and instances
            are None for all images of a file that has none.
        classes: lib.label_images.Classes.
        has_instances: whether labels are background, object and border of objects.
        scaling: the rule of channel_limits.
        size: (height, width) that all images were scaled to, which is noted; None for none.
    Raises:
        UserError: if a file cannot be written.
    """
    with ExitStack() as stack:
        for path, items in sets.items():
            beside = stack.enter_context(atomic_write(path))
            with new_hdf5(beside) as file:
                _write(file, items, classes, scaling)
                file.attrs["has_instances"] = has_instances
                if size:
                    file.attrs["size"] = size
            remove_left_overs_of(path)


def _write(file, items, classes, scaling):
    ids, counts = [], []
    for number, (identity, image, label, instances) in enumerate(items):
        stored = _store(file, f"images/{number}", image)
        stored.attrs["id"] = identity
        stored.attrs["limits"] = channel_limits(image, scaling)
        ids.append(identity)
        if label is not None:
            _store(file, f"labels/{number}", label)
            counts.append(np.bincount(label.ravel(), minlength=IGNORE + 1)[: len(classes)])
        if instances is not None:
            _store(file, f"instances/{number}", instances)
    file["ids"] = ids
    file["class_names"] = list(classes.names)
    file["class_colours"] = np.array(classes.colours, np.uint8)
    file["class_counts"] = np.array(counts, np.int64).reshape(-1, len(classes))
    file.attrs["scaling"] = scaling
    file.attrs["format"] = FORMAT


def _store(file, name, array):
    chunks = (*array.shape[:-2], *(min(side, CHUNK) for side in array.shape[-2:]))
    # With a checksum: damaged pixels are found when they are read.
    return file.create_dataset(name, data=array, chunks=chunks, compression="lzf", fletcher32=True)


# ---------------------------------------------------------------- reading


class StoredArray:
    """An image, a label or object numbers in a file: what a slice asks for is read, and no more.

    Args:
        file: open h5py.File.
        name: of the data set.
        limits: (C, 2) of an image, which is scaled to float32 in [0, 1]; None leaves the numbers.
        owner: what must live for the file to stay open.
    """

    def __init__(self, file, name, limits=None, owner=None):
        stored = file[name]
        self.shape, self.ndim = stored.shape, stored.ndim
        self.dtype = stored.dtype if limits is None else np.dtype(np.float32)
        self.limits = limits
        self._file, self._name, self._owner = file, name, owner

    def __getitem__(self, key):
        """Reads a part: [:, rows, columns] or [..., rows, columns], slices, all channels of it.

        Raises:
            UserError: if the file is damaged there.
        """
        try:
            # Opened anew each time: HDF5 keeps up to 1 MB for every data set that stays open.
            part = self._file[self._name][key]
        except (OSError, RuntimeError, KeyError) as error:
            raise UserError(
                f"{self._file.filename}: {self._name} cannot be read; the file is damaged, or on a "
                f"disk that is gone. Prepare the data again: {SCRIPT}. HDF5 says: {error}"
            ) from error
        return part if self.limits is None else scaled(part, self.limits)

    def __array__(self, dtype=None, copy=None):
        """Reads all of it, for NumPy."""
        return np.asarray(self[...], dtype)


def is_image_set(path):
    """Tells whether a file is one of this module's, of whatever version."""
    try:
        with h5py.File(path) as file:
            return str(file.attrs.get("format")).startswith(FORMAT.split(",")[0])
    except OSError:
        return False


class ImageSet:
    """Reads a file of images, parts of them when they are needed.

    Args:
        path: the file, as write_image_sets writes it.

    Attributes:
        ids: N names; not fit for paths as they are (lib.results.file_names).
        num_channels: C, of every image.
        shapes: N tuples (height, width) in pixels.
        images: N StoredArray of (C, H, W), float32 in [0, 1] when sliced.
        labels: N StoredArray of (H, W) uint8, classes and IGNORE; None without labels.
        instances: N StoredArray of (H, W) int32, object numbers; None without.
        classes: lib.label_images.Classes, K of them.
        image_class_counts: (N, K) int64, pixels of every class in every image; without labels
            (0, K).
        has_instances: whether the classes are background, object and border of objects.
        scaling: the rule of channel_limits that the images are scaled by.
        size: (height, width) that all images were scaled to; None where they have their own.
    Raises:
        UserError: if the file is missing, not whole, of another kind, or leads out of itself by
            links.
    """

    def __init__(self, path):
        with ExitStack() as stack:
            file = stack.enter_context(open_hdf5(path, SCRIPT))
            self.path = path
            self._read(file)
            self._open = stack.pop_all()

    def close(self):
        """Closes the file; parts can no longer be read."""
        self._open.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __len__(self):
        """Counts the images."""
        return len(self.ids)

    def _read(self, file):
        if file.attrs.get("format") != FORMAT:
            raise UserError(
                f"{self.path} is no file of {SCRIPT.split()[1]}, or of another version of it: it "
                f"holds {', '.join(sorted(file)[:8]) or 'nothing'}. Prepare first: {SCRIPT}"
            )
        self.ids = self._strings(file, "ids")
        names = self._strings(file, "class_names")
        colours = self._dataset(file, "class_colours", 2)[...]
        self.classes = Classes(tuple(names), tuple(tuple(map(int, c)) for c in colours))
        self.image_class_counts = self._dataset(file, "class_counts", 2)[...]
        self.has_instances = bool(file.attrs.get("has_instances"))
        self.scaling = file.attrs.get("scaling")
        self._require(self.scaling in SCALINGS, f"is scaled by the rule {self.scaling}")
        self.size = self._noted_size(file)
        self.images = self._arrays(file, "images", 3, ("u1", "u2"))
        self.labels = self._arrays(file, "labels", 2, ("u1",))
        self.instances = self._arrays(file, "instances", 2, ("i4",))
        self.shapes = [image.shape[1:] for image in self.images or ()]
        channels = {image.shape[0] for image in self.images or ()}
        self._require(self.images, f"holds no {len(self.ids)} images")
        self._require(len(channels) == 1, f"holds images of {sorted(channels)} channels")
        self._require(len(colours) == len(names) >= 2, "holds other numbers of names and colours")
        for arrays in (self.labels, self.instances):
            same = arrays is None or [array.shape for array in arrays] == self.shapes
            self._require(same, "holds labels of other sizes than their images")
        expected = (len(self) if self.labels else 0, len(names))
        is_right = self.image_class_counts.shape == expected
        self._require(is_right, "holds class_counts of other images or classes")
        (self.num_channels,) = channels

    def _noted_size(self, file):
        """Gives the (height, width) that all images were scaled to, or None."""
        if "size" not in file.attrs:
            return None
        size = np.asarray(file.attrs["size"])
        is_right = size.shape == (2,) and size.dtype.kind in "iu" and size.min() > 0
        self._require(is_right, "holds no height and width as its size")
        return tuple(size.tolist())

    def _arrays(self, file, group, ndim, types):
        """Gives a StoredArray for every id; None without the group."""
        if self._own(file, group) is None:
            return None
        arrays = []
        for number in range(len(self.ids)):
            name = f"{group}/{number}"
            stored = self._dataset(file, name, ndim)
            self._require(
                stored.dtype.str[1:] in types, f"holds {name} as {stored.dtype}, not {types}"
            )
            self._require(stored.size, f"holds nothing in {name}")
            limits = self._limits(name, stored) if group == "images" else None
            arrays.append(StoredArray(file, name, limits, owner=self))
        return arrays

    def _limits(self, name, stored):
        limits = np.asarray(stored.attrs.get("limits", ()))
        is_right = limits.dtype.kind == "f" and limits.shape == (stored.shape[0], 2)
        self._require(is_right and np.isfinite(limits).all(), f"holds no limits of {name}")
        return limits.astype(np.float32)

    def _strings(self, file, name):
        stored = self._dataset(file, name, 1)
        self._require(h5py.check_string_dtype(stored.dtype), f"holds no text in {name}")
        return list(stored.asstr()[...])

    def _dataset(self, file, name, ndim):
        """Gives a data set that lies in the file itself."""
        stored = self._own(file, name)
        self._require(stored is not None, f"holds no {name}")
        is_one = isinstance(stored, h5py.Dataset) and stored.ndim == ndim
        self._require(is_one, f"holds no {name} of {ndim} axes")
        return stored

    def _own(self, file, name):
        try:
            return own_part(file, name)
        except ValueError as error:
            self._require(False, str(error))

    def _require(self, condition, found):
        if not condition:
            raise UserError(
                f"{self.path} is not as {SCRIPT.split()[1]} writes it: it {found}. "
                f"Prepare the data again: {SCRIPT}"
            )
