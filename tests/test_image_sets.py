"""Images of any sizes in one HDF5 file: what is written is read, by the part, and nothing else."""

import h5py
import numpy as np
import pytest

from lib.elastic_deformation import Augmentation
from lib.errors import UserError
from lib.image_sets import ImageSet, channel_limits, scaled, write_image_sets
from lib.label_images import Classes
from lib.patch_dataset import TileDataset, covering_places, places_by_area

CLASSES = Classes(("ground", "disc", "bar"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))
SIZES = ((150, 141), (30, 20), (9, 300))


@pytest.fixture
def items(rng):
    """Three images of three sizes, their labels (one pixel ignored) and object numbers."""
    found = []
    for number, size in enumerate(SIZES):
        image = rng.integers(0, 256, (3, *size), dtype=np.uint8)
        label = rng.integers(0, 3, size).astype(np.uint8)
        label[0, 0] = 255
        found.append((f"../{number}", image, label, label.astype(np.int32) * 70_000))
    return found


@pytest.fixture
def path(tmp_path, items):
    write_image_sets({tmp_path / "a.hdf5": items}, CLASSES, has_instances=True)
    return tmp_path / "a.hdf5"


def message_of(path):
    with pytest.raises(UserError) as error:
        ImageSet(path)
    return str(error.value)


def test_what_is_written_is_read(path, items):
    with ImageSet(path) as images:
        assert (len(images), images.num_channels, len(images.classes)) == (3, 3, 3)
        assert images.ids == ["../0", "../1", "../2"]
        assert images.shapes == list(SIZES)
        assert (images.classes, images.has_instances, images.scaling) == (CLASSES, True, "auto")
        for number, (_, image, label, instances) in enumerate(items):
            whole = np.asarray(images.images[number])
            np.testing.assert_allclose(whole, image / 255, rtol=1e-6)
            assert whole.dtype == images.images[number].dtype == np.float32
            np.testing.assert_array_equal(images.labels[number], label)
            np.testing.assert_array_equal(images.instances[number], instances)
            counts = np.bincount(label.ravel(), minlength=256)[:3]
            np.testing.assert_array_equal(images.image_class_counts[number], counts)
        assert images.image_class_counts.sum() == sum(a * b for a, b in SIZES) - 3


def test_a_part_is_read_without_the_rest(path, items):
    with ImageSet(path) as images:
        part = images.images[0][:, 120:140, 3:7]
        np.testing.assert_array_equal(part, np.asarray(images.images[0])[:, 120:140, 3:7])
        assert images.images[0][..., 1:1, :].shape == (3, 0, 141)
        np.testing.assert_array_equal(images.labels[0][120:140, 3:7], items[0][2][120:140, 3:7])


@pytest.mark.parametrize("augmentation", [None, Augmentation(zoom=2.0, quarter_turns=True)])
def test_tiles_from_a_file_are_those_from_memory(path, augmentation):
    with ImageSet(path) as images:
        in_memory = [np.asarray(image) for image in images.images]
        labels = [np.asarray(label) for label in images.labels]
        options = {"input_size": (48, 48), "output_size": (32, 32), "augmentation": augmentation}
        places = covering_places(images.shapes, (32, 32))
        for kind in (places, 40):
            draw = None if kind is places else places_by_area(images.shapes, (32, 32))
            first, second = (
                TileDataset(*arrays, None, kind, draw_place=draw, batch_size=40, **options)[0]
                for arrays in ((images.images, images.labels), (in_memory, labels))
            )
            for one, other in zip(first, second):
                np.testing.assert_array_equal(one, other)


def test_a_tile_reads_its_window_and_no_more(rng):
    class Watched:
        """An image that notes which parts are asked for."""

        def __init__(self, array):
            self.array, self.shape, self.pixels = array, array.shape, []

        def __getitem__(self, key):
            part = self.array[key]
            self.pixels.append(part[..., :, :].shape[-2:])
            return part

    image = Watched(rng.random((3, 1000, 1000), np.float32))
    label = Watched(np.zeros((1000, 1000), np.uint8))
    options = {"input_size": (64, 64), "output_size": (32, 32)}
    for augmentation in (None, Augmentation()):
        TileDataset([image], [label], None, [(0, 500, 500)], augmentation=augmentation, **options)[
            0
        ]
    # 64 pixels turned by any angle span at most 91; deformation and shift add a few tens.
    assert len(image.pixels) == len(label.pixels) == 2
    assert max(map(max, image.pixels)) < 200 and max(map(max, label.pixels)) < 150


def test_scales_are_those_of_the_type_or_of_the_image(rng):
    low, high = np.array([10, 12000]), np.array([30, 50000])
    eight, sixteen = (
        rng.integers(a, b + 1, (3, 50, 60)).astype(kind)
        for a, b, kind in zip(low, high, (np.uint8, np.uint16))
    )
    assert channel_limits(eight).tolist() == [[0, 255]] * 3
    assert channel_limits(sixteen, "type").tolist() == [[0, 65535]] * 3
    for image, rule in ((eight, "image"), (sixteen, "auto"), (sixteen, "image")):
        limits = np.percentile(image, (0.1, 99.9))
        np.testing.assert_allclose(channel_limits(image, rule), [limits] * 3, rtol=1e-6)
    channels = np.stack([eight[0], eight[1] * 4, *eight[:2]])
    by_channel = channel_limits(channels, "image")
    np.testing.assert_allclose(by_channel[1], np.percentile(channels[1], (0.1, 99.9)))
    unit = scaled(channels, by_channel)
    assert (unit.min(), unit.max(), unit.dtype) == (0, 1, np.float32)
    assert not scaled(np.full((1, 2, 2), 7, np.uint8), np.array([[7.0, 7.0]])).any()


def test_without_labels_there_are_none(tmp_path, items):
    path = tmp_path / "a.hdf5"
    bare = [(identity, image, None, None) for identity, image, _, _ in items]
    write_image_sets({path: bare}, CLASSES, scaling="image")
    with ImageSet(path) as images:
        assert images.labels is images.instances is None
        assert images.image_class_counts.sum(axis=0).tolist() == [0, 0, 0]
        assert images.scaling == "image"


def test_nothing_appears_when_one_of_several_files_fails(tmp_path, items):
    def broken():
        yield items[0]
        raise UserError("no more")

    sets = {tmp_path / "a.hdf5": items, tmp_path / "b.hdf5": broken()}
    with pytest.raises(UserError, match="no more"):
        write_image_sets(sets, CLASSES)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- files that are not right


def test_a_missing_a_truncated_and_a_foreign_file_say_how_to_prepare(tmp_path, path):
    assert (
        "does not exist. Prepare the data first: python prepare_datasets_folder.py"
        in message_of(tmp_path / "none.hdf5")
    )
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(path.read_bytes()[:-500])
    assert "not a whole HDF5 file" in message_of(cut)
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["image"] = np.zeros((1, 1, 2, 2))
    assert "it holds image. Prepare first: python prepare_datasets_folder.py" in message_of(
        tmp_path / "other.hdf5"
    )


def spoil(path, name, change):
    """Changes a file; `change` gets it, after the data set of a name is taken out."""
    with h5py.File(path, "r+") as file:
        kept = file[name][...] if isinstance(file[name], h5py.Dataset) else None
        del file[name]
        change(file, kept)


def test_links_references_and_outside_data_are_refused(tmp_path, path, items):
    other = tmp_path / "secret.hdf5"
    other.write_bytes(path.read_bytes())
    (tmp_path / "raw").write_bytes(bytes(30 * 20))

    def external_link(file, _):
        file["labels/1"] = h5py.ExternalLink(str(other), "labels/1")

    def soft_link(file, _):
        file["labels/1"] = h5py.SoftLink("/labels/0")

    def group_link(file, _):
        file["labels"] = h5py.ExternalLink(str(other), "labels")

    def references(file, kept):
        file.create_dataset("labels/1", kept.shape, h5py.ref_dtype)

    def outside(file, kept):
        external = [(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("labels/1", kept.shape, np.uint8, external=external)

    def virtual(file, kept):
        layout = h5py.VirtualLayout(kept.shape, np.uint8)
        layout[...] = h5py.VirtualSource(str(other), "labels/1", kept.shape)
        file.create_virtual_dataset("labels/1", layout)

    whole = path.read_bytes()
    for name, change, message in (
        ("labels/1", external_link, "leads elsewhere by a link: labels/1"),
        ("labels/1", soft_link, "leads elsewhere by a link: labels/1"),
        ("labels", group_link, "leads elsewhere by a link: labels"),
        ("labels/1", references, "refers to something outside"),
        ("labels/1", outside, "refers to something outside"),
        ("labels/1", virtual, "refers to something outside"),
    ):
        path.write_bytes(whole)
        spoil(path, name, change)
        assert message in message_of(path), change


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("labels/1", np.zeros((30, 21), np.uint8), "labels of other sizes"),
        ("labels/1", np.zeros((30, 20), np.float32), "holds labels/1 as float32"),
        ("images/1", np.zeros((1, 30, 20), np.uint8), "holds no limits of images/1"),
        ("images/1", None, "holds no images/1"),
        ("images", None, "holds no 3 images"),
        ("ids", [1, 2, 3], "holds no text in ids"),
        ("class_names", ["a"], "other numbers of names and colours"),
        ("class_counts", np.zeros((2, 3), int), "class_counts of other images"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(path, name, value, message):
    def change(file, _):
        if value is not None:
            file[name] = value

    spoil(path, name, change)
    assert message in message_of(path)


def test_a_part_that_is_damaged_is_named_when_it_is_read(path):
    with h5py.File(path) as file:
        chunk = file["images/0"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 100] ^= 1
    path.write_bytes(content)
    with ImageSet(path) as images:
        with pytest.raises(UserError, match="images/0 cannot be read; the file is damaged"):
            images.images[0][...]
