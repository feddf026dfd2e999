"""Files: written beside their place and moved in when whole; HDF5 input and output."""

import contextlib
import errno
import glob
import io
import math
import os
import stat
from pathlib import Path

import h5py
import numpy as np

from lib.errors import UserError

# An HDF5 data set may be this large in bytes, or so many times larger than its share of the file.
LARGEST_CLAIM, MOST_COMPRESSION = 2**30, 1100
# What a network drive without locks answers.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
NO_LOCKS = (
    "the drive has no locks. Start again with HDF5_USE_FILE_LOCKING=FALSE in front of the command, "
    "and take care that no other program writes the file at that time."
)


def absolute_path(path):
    """Gives the absolute path of what a user wrote, for reading and for messages; ~ is the home."""
    return Path(os.path.abspath(os.path.expanduser(path)))


@contextlib.contextmanager
def atomic_write(path):
    """Gives a path to write to; the file appears at its place only when all went well.

    Args:
        path: where the file belongs; its folder is made if need be.
    Yields:
        a path in the same folder with the same ending.
    Raises:
        UserError: if the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    beside = path.with_name(f".{os.getpid()}_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        # First the content, then the name: after a power cut the place may hold the old file or
        # the new one, but no empty one.
        with open(beside, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


@contextlib.contextmanager
def folder_for_output(folder, option="--output"):
    """Makes a folder and checks that files can be written to it, before anything long starts.

    Folders that were made here and are still empty at the end, because of an error, are removed.

    Args:
        folder: where the files belong.
        option: what chooses another folder, for messages.
    Raises:
        UserError: if the folder cannot be written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        _require_writable(folder, f"choose another folder ({option})")
        remove_left_overs_of(folder / "probe")
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()  # refuses a folder that holds anything


def _require_writable(folder, advice):
    if folder.is_file():
        raise UserError(f"{folder} is a file, where a folder belongs. Move it, or {advice}.")
    probe = folder / f".{os.getpid()}_probe"
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    try:
        # An administrator may write anywhere; a folder marked read-only stays untouched all the
        # same, because somebody marked it so.
        if not place.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(None, "the folder is marked read-only")
        place = folder
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise UserError(
            f"The folder {place} cannot be written to: {error.strerror or error}. Change its "
            f"permissions (chmod u+w {place}), or {advice}."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def append_line(path, line):
    """Adds a line to a text file, so that it is on the disk at once; folder and file are made.

    Args:
        path: the file.
        line: text with its end.
    Raises:
        UserError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8", newline="") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path, error):
    """Words why a file cannot be written.

    HDF5 hides a full disk in a long message, and may raise a RuntimeError.

    Args:
        path: the file.
        error: the OSError or RuntimeError.
    Returns:
        UserError, to be raised.
    Raises:
        RuntimeError: the error itself, where it has another cause.
    """
    for number, reason in _FULL.items():
        is_of_hdf5 = f"errno = {number}" in str(error)
        if is_of_hdf5 or os.strerror(number) in str(error):
            return UserError(f"Cannot write {path}: {reason}.", leave_at_once=is_of_hdf5)
    if "unable to lock file" in str(error):
        return UserError(f"Cannot write {path}: {NO_LOCKS}")
    if isinstance(error, RuntimeError):
        raise error
    return UserError(f"Cannot write {path}: {error.strerror or error}.")


_FULL = {
    errno.ENOSPC: "the disk is full. Make room",
    errno.EDQUOT: "your share of the disk (quota) is full. Make room",
    errno.EFBIG: "it grows larger than is allowed here (ulimit -f). Raise the limit",
}


def remove_left_overs(folder, *patterns, is_locked=True):
    """Removes what processes that were killed left half-written beside the places of files.

    Args:
        folder: where to look; it may be missing.
        patterns: of the names of the files, as glob takes them.
        is_locked: whether no other process writes there; else what one that runs writes stays.
    """
    for pattern in patterns:
        for path in Path(folder).glob(f".[0-9]*_{pattern}"):
            number = path.name[1:].partition("_")[0]
            if number.isdecimal() and (is_locked or not _runs(int(number))):
                path.unlink(missing_ok=True)


def remove_left_overs_of(path):
    """Removes what processes that were killed left half-written beside one file."""
    remove_left_overs(path.parent, glob.escape(path.name), is_locked=False)


def _runs(process):
    """Tells whether a process of a number runs on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True


def write_hdf5(path, image, **others):
    """Writes arrays to an HDF5 file.

    retina-unet lib/help_functions.py, write_hdf5. Differs: written whole; the type is kept.

    Args:
        path: the file, a Path.
        image: (num_images, channels, height, width), stored as the data set `image`.
        others: further data sets by name (`ids`: a list of strings); None leaves one out.
    """
    with hdf5_files() as write:
        write(path, image, **others)


@contextlib.contextmanager
def hdf5_files():
    """Writes several HDF5 files that belong together: all appear when all are whole.

    Yields:
        function with the arguments of write_hdf5.
    """
    with contextlib.ExitStack() as files:

        def write(path, image, **others):
            beside = files.enter_context(atomic_write(path))
            with new_hdf5(beside) as file:
                file["image"] = image
                for name, values in others.items():
                    if values is not None:
                        file[name] = values
            remove_left_overs_of(path)

        yield write


def settle_earlier(paths, reason, *, stay=False):
    """Removes or leaves what an earlier run wrote for a half that has nothing now; says which.

    Args:
        paths: of the half's files.
        reason: why there is nothing: "No frames to test on were given".
        stay: whether the files stay.
    """
    earlier = [path for path in paths if path.exists()]
    if not earlier:
        return
    names = ", ".join(path.name for path in earlier)
    is_one = len(earlier) == 1
    stays = "stays as it is" if is_one else "stay as they are"
    goes = "is removed" if is_one else "are removed"
    print(f"{reason}: {names} of an earlier run {stays if stay else goes}.")
    if not stay:
        for path in earlier:
            path.unlink()


@contextlib.contextmanager
def new_hdf5(path):
    """Opens a new HDF5 file for writing; a full disk is raised at its end.

    HDF5 itself crashes on a full disk, when it closes what it could not write.

    Args:
        path: the file.
    Yields:
        h5py.File.
    Raises:
        OSError: if it cannot be written.
    """
    with _Forgiving(path) as disk:
        try:
            with h5py.File(disk, "w") as file:
                yield file
        finally:
            if disk.error:
                raise disk.error


class _Forgiving(io.FileIO):
    """A new file that keeps the first error of its writing, and forgets all that comes behind."""

    def __init__(self, path):
        super().__init__(path, "w+")
        self.error = None

    def write(self, content):
        """Writes all of the content, and moves on all the same where that fails."""
        start, content = self.tell(), memoryview(content).cast("B")
        done = 0
        try:
            while done < len(content) and not self.error:
                done += super().write(content[done:])
        except OSError as error:
            self.error = error
        self.seek(start + len(content))
        return len(content)


def load_hdf5(path):
    """Reads the data set `image` of an HDF5 file.

    retina-unet lib/help_functions.py, load_hdf5. Its float64 files are read too.

    Args:
        path: the file.
    Returns:
        (num_images, channels, height, width) as stored.
    Raises:
        UserError: if there is no such file, it is no whole HDF5 file or holds no such array.
    """
    with open_hdf5(path) as file:
        image = _own(path, file, "image")
        if image is None:
            raise UserError(
                f"{path} holds no data set `image`, but {sorted(file) or 'nothing'}. "
                "Prepare the data again with prepare_datasets_DRIVE.py (or _ISBI.py)."
            )
        holds_numbers = isinstance(image, h5py.Dataset) and image.dtype.kind in "biuf"
        if not holds_numbers or image.ndim != 4 or image.shape[0] == 0:
            raise UserError(
                f"{path}: `image` must hold numbers in the shape (num_images, channels, height, "
                f"width). Received: {image}."
            )
        image = image[...]
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise UserError(f"{path}: `image` holds NaN or infinite values. Prepare the data again.")
    return image


def load_hdf5_extra(path, name):
    """Reads another data set of an HDF5 file, strings as str.

    Args:
        path: the file.
        name: the data set, for example `ids`.
    Returns:
        the array (of strings: a list; of one string: itself), or None where the file has no such
        data set: files that retina-unet wrote have only `image`.
    """
    with open_hdf5(path) as file:
        stored = _own(path, file, name)
        if stored is None:
            return None
        if not isinstance(stored, h5py.Dataset):
            raise UserError(f"{path}: `{name}` must be a data set. Prepare the data again.")
        if h5py.check_string_dtype(stored.dtype):
            strings = stored.asstr()[()]
            return strings if isinstance(strings, str) else list(strings)
        return stored[...]


def _own(path, file, name):
    """Gives what own_part finds in a file that a preparation wrote."""
    try:
        return own_part(file, name)
    except ValueError as error:
        raise UserError(
            f"{path} is not as the preparation writes it: it {error}. Prepare the data again."
        ) from error


def own_part(file, name):
    """Finds a group or data set that lies in an HDF5 file itself.

    Args:
        file: h5py.File or h5py.Group.
        name: path within it.
    Returns:
        h5py.Group or h5py.Dataset; None without one of that name.
    Raises:
        ValueError: if a link leads elsewhere at any step, or the data set is refused by
            check_dataset; the message goes on from "the file ...".
    """
    place = file
    for part in name.split("/"):
        link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"leads elsewhere by a link: {name}")
        place = place[part]
    if isinstance(place, h5py.Dataset):
        check_dataset(place, name)
    return place


def check_dataset(dataset, name):
    """Refuses a data set whose numbers lie elsewhere, that is no array of numbers, or that lies.

    A file of a few bytes may claim an array of any size; no compression reaches 1 to 1100.

    Args:
        dataset: h5py.Dataset.
        name: for the message.
    Raises:
        ValueError: as of own_part.
    """
    dtype = dataset.dtype
    if (
        dataset.external
        or dataset.is_virtual
        or h5py.check_ref_dtype(dtype)
        or not (dtype.kind in "biuf" or h5py.check_string_dtype(dtype))
    ):
        raise ValueError(f"refers to something outside of it, or to no numbers: {name}")
    largest = max(dataset.size, math.prod(dataset.chunks or ())) * dtype.itemsize
    if largest > max(LARGEST_CLAIM, MOST_COMPRESSION * dataset.id.get_storage_size()):
        shape = " x ".join(map(str, dataset.shape))
        raise ValueError(f"claims far more numbers than it holds: {name}, {shape}")


@contextlib.contextmanager
def open_hdf5(path, script=None):
    """Opens an HDF5 file for reading, and says what is wrong with it, also while it is read.

    Args:
        path: the file.
        script: how a user makes it, for the message.
    Yields:
        h5py.File.
    Raises:
        UserError: if there is no such file, it is in use, or not whole.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. Prepare the data first{f': {script}' if script else ''}, or "
            "fix path_local and the file names in [data paths] of the configuration."
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{path} does not fit into the memory that is free. End other programs, or use a "
            "machine with more memory; the file itself may be right."
        ) from error
    except Exception as error:  # a file that is damaged inside makes h5py raise almost anything
        if "unable to lock file" in str(error) and getattr(error, "errno", None) in _WITHOUT_LOCKS:
            raise UserError(f"{path} cannot be read: {NO_LOCKS}") from error
        if isinstance(error, BlockingIOError) or "unable to lock file" in str(error):
            raise UserError(
                f"{path} is in use: another program has it open for writing. Wait until that has "
                "ended, or close the file there, and start again."
            ) from error
        if isinstance(error, PermissionError):
            raise UserError(
                f"{path} cannot be opened: {os.strerror(errno.EACCES)}. Ask its owner for the "
                "right to read it (chmod a+r)."
            ) from error
        raise UserError(
            f"{path} is not a whole HDF5 file; it may be cut off, damaged or half downloaded "
            f"({path.stat().st_size} bytes). Prepare the data again. HDF5 says: {error}"
        ) from error


# ---------------------------------------------------------------- files that belong to images


def load_companion(path, images_path, data):
    """Reads a file that belongs to images: one array of one channel for each.

    Args:
        path: the file.
        images_path: the file of the images, for messages.
        data: with images (N, C, H, W) and ids.
    Returns:
        array as stored, None for a file that cannot be read; and a list of problems.
    """
    try:
        array = load_hdf5(path)
    except UserError as error:
        return None, error.problems
    images, problems = data["images"], []
    if array.shape[1] != 1:
        problems.append(channels_problem(path, 1, array))
    if len(array) != len(images):
        problems.append(
            f"{path} holds {len(array)} arrays for the {len(images)} images of {images_path.name}. "
            "Prepare the data again, or correct the file names in [data paths]."
        )
    if array.shape[2:] != images.shape[2:]:
        problems.append(
            f"{path} holds arrays of {array.shape[3]} x {array.shape[2]} pixels for images of "
            f"{images.shape[3]} x {images.shape[2]} in {images_path.name}. Prepare the data again."
        )
    ids, _ = load_ids(path, data["ids"])
    if len(ids) == len(images) and ids != data["ids"]:
        problems.append(
            f"{path} belongs to other images (ids {ids[0]} to {ids[-1]}) than {images_path.name} "
            f"(ids {data['ids'][0]} to {data['ids'][-1]}). Correct the file names in [data paths]."
        )
    return array, problems


def load_masks(path, images_path, data):
    """Reads masks that belong to images -> (uint8 in {0, 1}, problems); see load_companion."""
    masks, problems = load_companion(path, images_path, data)
    if masks is None:
        return None, problems
    values = np.unique(masks)
    if not (set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}):
        problems.append(
            f"{path} must hold masks of 0 and 255. Received: {len(values)} values from "
            f"{values[0]} to {values[-1]}. Are files swapped in [data paths]?"
        )
    return (masks > 0).astype(np.uint8), problems


def channels_problem(path, expected, array):
    """Words that an array has another number of channels than expected."""
    return (
        f"{path} must hold {'RGB images' if expected == 3 else 'masks'} of {expected} channel(s). "
        f"Received: {array.shape[1]}. Are files swapped in [data paths]?"
    )


def load_ids(path, instead):
    """Reads the ids of the images in a file.

    Args:
        path: the file.
        instead: ids for a file that has none: files of retina-unet.
    Returns:
        list of names; and a list of problems: there must be one for each image.
    """
    stored = load_hdf5_extra(path, "ids")
    if stored is None:
        return list(instead), []
    ids = [str(name) for name in np.atleast_1d(stored)]
    if len(ids) == len(instead):
        return ids, []
    return ids, [f"{path} holds {len(ids)} ids for {len(instead)} images. Prepare the data again."]


def numbered(images):
    """Gives ids to the images of files that have none."""
    return [f"{number:02d}" for number in range(len(images))]
