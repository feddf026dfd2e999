"""The benchmark itself: everything is measured on tiny images, and the tables are whole."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from benchmarks import backends, cameras, grown_membranes, side_by_side, tables, variants
from benchmarks.note_looks import note
from benchmarks.pack_weights import pack
from lib.configuration import read_configuration
from lib.errors import UserError
from lib.files import load_hdf5, load_hdf5_extra, write_hdf5
from lib.unet import get_unet, get_unpadded_unet
from lib.weight_map import class_weights, weight_map
from lib.weights import read_weights, save_weights
from src.tasks import TASKS
from tests.networks import WITH_ONEDNN
from tests.processes import REPOSITORY, run


def test_quick_run_measures_everything_and_writes_the_tables(tmp_path):
    done = run(
        "-m", "benchmarks.run", "--quick", "--output", str(tmp_path), cwd=REPOSITORY, **WITH_ONEDNN
    )
    assert done.returncode == 0, done.output
    measured = json.loads((tmp_path / "results.json").read_text())
    # 2 * 9 * (1*32 + 32*32) * 48^2 + 2 * 9 * (32*64 + 64*64) * 24^2 + ...: benchmarks/README.md
    assert measured["stride5"]["plain"][0]["operations_per_patch"] == 511_229_952
    results = (tmp_path / "results.md").read_text()
    for row in (
        "training patches/s",
        "stride-5 patches/s",
        "one image at stride 5",
        "in one pass",
        "preparing 190,000",
        "figures inside the FOV",
        "GFLOP/s",
        "peak memory",
    ):
        assert row in results
    assert tables.NEEDS_DATA in results
    assert "cutting a batch" in (tmp_path / "profile.md").read_text()


def test_backends_are_compared_with_tensorflow_and_missing_ones_are_named():
    tested = {
        "tensorflow": [[9000, 500], [100, 400]],
        "jax": [[8998, 502], [100, 400]],  # 2 of 10,000 pixels moved
        "torch": "not installed here",
        "openvino": [[8990, 510], [100, 400]],  # 10 of 10,000
    }
    shares = {row[0]: row[2] for row in backends.rows(tested)}
    assert shares == {
        "tensorflow": "0.0000%, at most 0.05%",
        "jax": "0.0200%, at most 0.05%",
        "torch": "",
        "openvino": "0.1000%, MORE THAN 0.05%",
    }


def test_networks_are_compared_at_their_best_and_with_ours_in_the_same_precision():
    def answers(*pairs):
        return [{"parameters": 1000, "image": i, "patches": p} for i, p in pairs]

    measured = {
        ("ours", "float32"): answers((2.0, 10), (1.0, 8)),
        ("unet", "float32"): answers((1.5, 5), (3.0, 4)),
    }
    assert list(side_by_side.rows(measured)) == [
        (side_by_side.WAYS["ours"], "1,000", "float32", "1.000", "10"),
        (
            side_by_side.WAYS["unet"],
            "1,000",
            "float32",
            "1.500 (1.50 of ours)",
            "5 (0.50 of ours)",
        ),
    ]


# What a configuration says and what is read, where they differ: one orientation, not none.
READ_AS = {("average_flips", False): 1}


@pytest.mark.parametrize("study", variants.STUDIES.values(), ids=variants.STUDIES)
def test_every_variant_is_a_configuration_that_differs_as_it_says(study, tmp_path):
    path = tmp_path / "variant.txt"
    different = []
    for changes in study.variants.values():
        wanted = {**study.common, **changes}
        variants.write_configuration(REPOSITORY / study.base, path, wanted)
        sections = reversed(read_configuration(path, TASKS, "retina").as_dict().values())
        read = {key: value for section in sections for key, value in section.items()}
        expected = {key: READ_AS.get((key, value), value) for key, value in wanted.items()}
        assert {key: read[key] for key in wanted} == expected
        assert read not in different, changes
        different.append(read)


def test_a_study_goes_on_where_it_was(tmp_path, monkeypatch):
    """Scripts that only count how often they are called stand in for training and testing."""
    monkeypatch.chdir(tmp_path)
    areas = {"auc_roc": 0.98}
    calls = []

    def call(command, **options):
        calls.append(command[1].name if command[1] != "-m" else command[2])
        folder = Path("ablation_no_zoom")
        if calls[-1] == "run_training.py":
            state = {"history": [{"epoch": 1, "loss": 0.5}] * 2, "settings": {}}
            folder.mkdir()
            save_weights(get_unet(1, 4, 4), folder / f"{folder}_last.weights.h5", state)
            raise KeyboardInterrupt
        if calls[-1] == "run_testing.py":
            (folder / "validation").mkdir()
            (folder / "validation/performances.json").write_text(json.dumps({"inside_FOV": areas}))
        else:
            cameras_of = {name: (0.97, 0.85) for name in variants.ABLATION.cameras}
            (folder / "cameras.json").write_text(json.dumps(cameras_of))

    monkeypatch.setattr(variants.subprocess, "run", call)
    with pytest.raises(KeyboardInterrupt):
        variants.run_variant("ablation", "no zoom")
    figures = variants.run_variant("ablation", "no zoom")
    assert figures == {"auc_roc": 0.98, **dict.fromkeys(variants.ABLATION.cameras, 0.97)}
    variants.run_variant("ablation", "no zoom")
    assert calls == ["run_training.py", "run_testing.py", "benchmarks.cameras"]


def test_variants_of_the_records_have_as_many_training_pixels():
    common = {**variants.RECORDS.common, "patch_height": 128, "batch_size": 8}
    for name, changes in variants.RECORDS.variants.items():
        sizes = {**common, **changes}
        pixels = sizes["patch_height"] ** 2
        assert sizes["N_subimgs"] % 20 == 0, name
        assert sizes["N_subimgs"] * pixels == pytest.approx(6000 * 128**2, rel=0.01), name
        assert sizes["batch_size"] * pixels == pytest.approx(8 * 128**2, rel=0.15), name


def test_records_give_what_their_table_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = {
        "inside_FOV": {"auc_roc": 0.98, "auc_pr": 0.9, "cldice": 0.8},
        "per_image": {"spread": {"auc_roc": {"mean": 0.981, "std": 0.1}}},
        "best_f1": {"threshold": 0.4, "f1": 0.82},
        "best_accuracy": {"threshold": 0.5, "accuracy": 0.957},
    }
    folder = Path("records_green", "validation")
    folder.mkdir(parents=True)
    (folder / "performances.json").write_text(json.dumps(scores))
    state = {
        "history": [{"epoch": 1, "loss": 0.5, "seconds": s} for s in (600, 630)],
        "settings": {},
    }
    save_weights(get_unet(1, 4, 4), Path("records_green/records_green_last.weights.h5"), state)
    tested = {"green": variants.run_variant("records", "green")}
    row = "| green | `channels = green` | 0.98000 | 0.98100 | 0.90000 | 0.82000 | 0.95700 | 0.80000"
    assert f"{row} | 20 |" in variants.report("records", tested)


def test_a_study_with_other_settings_takes_no_earlier_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ablation_no_zoom.txt").write_text("[training settings]\nN_epochs = 1\n")
    with pytest.raises(SystemExit, match="ablation_no_zoom.txt is of an earlier study"):
        variants.run_variant("ablation", "no zoom")
    assert "N_epochs = 1" in Path("ablation_no_zoom.txt").read_text()


def test_report_has_a_row_for_each_variant_so_far():
    figures = {"auc_roc": 0.98, "auc_pr": 0.91, "f1": 0.82, "accuracy": 0.95}
    figures |= {"30 degrees in place of 45": 0.97, "noise of 8 grey levels": 0.96}
    text = variants.report("ablation", {"all": figures, "no zoom": figures})
    row = "| no zoom | `zoom = 1` | 0.98000 | 0.91000 | 0.82000 | 0.95000 | 0.97000 | 0.96000 |"
    assert row in text
    assert "validation images" in text and "no noise" not in text


def test_simulated_cameras_keep_photograph_truth_and_fov_together():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 3, 584, 565)).astype(np.uint8)
    truth = (images[:, 1:2] > 200).astype(np.uint8)
    masks = np.ones((1, 1, 584, 565), np.uint8)
    for camera, (simulate, _) in cameras.CAMERAS.items():
        photographs, simulated, fov = simulate(images, truth, masks)
        assert photographs.dtype == np.uint8, camera
        assert photographs.shape == (1, 3, *simulated.shape[2:]), camera
        assert simulated.shape == fov.shape, camera
    unchanged = cameras.CAMERAS["as it is"][0](images, truth, masks)
    np.testing.assert_array_equal(unchanged[0], images)
    # The middle 360 of 565 columns, enlarged 1.5 times, in a round FOV.
    narrow = cameras.narrow(images, truth, masks)
    assert narrow[0].shape == (1, 3, 540, 540)
    assert not narrow[0][0, :, 0, 0].any() and narrow[2].mean() == pytest.approx(
        np.pi / 4, abs=0.01
    )


BFLOAT16 = {"training_settings": {"mixed_precision": True}}


@pytest.mark.parametrize("build, side", [(get_unet, 48), (get_unpadded_unet, 188)])
def test_packed_weights_are_smaller_and_predict_the_same_to_the_last_bit(build, side, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    options = {} if build is get_unet else {"base_filters": 12}
    network = build(1, side, side, data_format="channels_last", **options)
    rng = np.random.default_rng(0)
    network.set_weights(
        [x + 0.01 * rng.standard_normal(x.shape, np.float32) for x in network.get_weights()]
    )
    path = tmp_path / "a.weights.h5"
    save_weights(network, path, {"history": [{"epoch": 1, "loss": 0.5}], "settings": BFLOAT16})
    size = path.stat().st_size
    image = rng.random((2, 1, side, side), np.float32)
    before = network.predict_on_batch(image)
    assert pack(path) == (size, path.stat().st_size)
    assert path.stat().st_size < size / 2
    packed = read_weights(path)
    assert packed.history == [{"epoch": 1, "loss": 0.5}]
    packed.load_into(network)
    np.testing.assert_array_equal(network.predict_on_batch(image), before)


def test_looks_are_noted_and_the_weights_stay(tmp_path):
    network = get_unet(1, 48, 48, data_format="channels_last")
    path = tmp_path / "a.weights.h5"
    save_weights(network, path, {"history": [{"epoch": 1, "loss": 0.5}], "settings": BFLOAT16})
    before = network.get_weights()
    looks = {"brightness": [0.2, 0.4]}
    note(read_weights(path), looks)
    noted = read_weights(path)
    assert noted.looks == looks
    assert noted.history == [{"epoch": 1, "loss": 0.5}]
    other = get_unet(1, 48, 48, data_format="channels_last")
    noted.load_into(other)
    for one, same in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


def test_slices_without_labels_are_added_with_those_of_a_network(tmp_path):
    rng = np.random.default_rng(0)
    shape = (3, 1, 40, 48)
    images = rng.integers(0, 255, shape, dtype=np.uint8)
    cells = np.full(shape, 255, np.uint8)
    cells[..., ::10, :] = cells[..., ::10] = 0
    weights = rng.random(shape, np.float32)
    for kind, stack in {"imgs": images, "groundTruth": cells, "weightMaps": weights}.items():
        path = tmp_path / "data" / f"ISBI_dataset_{kind}_train.hdf5"
        write_hdf5(path, stack, ids=["a", "b", "c"], w0=10, sigma=5)
    tests = rng.integers(0, 255, (2, 1, 40, 48), dtype=np.uint8)
    write_hdf5(tmp_path / "data" / "ISBI_dataset_imgs_test.hdf5", tests, ids=["00", "01"])
    probabilities = np.where(cells[:2] > 0, 0.9, 0.1).astype(np.float32)
    probabilities[0, 0, 15, 15] = 0.2  # a speck of membrane
    write_hdf5(tmp_path / "test" / "predictions_test.hdf5", probabilities)
    words = ("test", "--data", "data", "--output", "more", "--held-out", "1")
    done = run("-m", "benchmarks.pseudo_labels", *words, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.output

    def written(kind):
        return load_hdf5(tmp_path / "more" / f"ISBI_dataset_{kind}_train.hdf5")

    order = [0, 1, 0, 1]
    np.testing.assert_array_equal(written("imgs"), [*images[order], *tests, images[2]])
    np.testing.assert_array_equal(written("groundTruth"), cells[[*order, 0, 0, 2]])
    found = written("weightMaps")
    np.testing.assert_array_equal(found[[0, 1, 2, 3, 6]], weights[[*order, 2]])
    balance = class_weights(cells > 0)
    expected = weight_map(cells[0, 0] > 0, balance)
    np.testing.assert_allclose(found[4:6, 0], [expected] * 2, rtol=1e-6)
    names = load_hdf5_extra(tmp_path / "more" / "ISBI_dataset_imgs_train.hdf5", "ids")
    assert names == ["a", "b", "a again", "b again", "test 00", "test 01", "c"]
    done = run("-m", "benchmarks.pseudo_labels", *words[:-3], "data", cwd=tmp_path)
    assert done.returncode == 1 and "--output another" in done.output
    done = run("-m", "benchmarks.pseudo_labels", *words[:-1], "3", cwd=tmp_path)
    assert done.returncode == 1 and "--held-out must be from 0 to 2. Received: 3." in done.output


def test_weights_of_a_training_that_may_go_on_are_not_packed(tmp_path):
    network = get_unet(1, 48, 48, data_format="channels_last")
    network.compile("adam", loss="sparse_categorical_crossentropy")
    path = tmp_path / "a.weights.h5"
    state = {"history": [], "settings": BFLOAT16}
    save_weights(network, path, state, with_optimizer=True)
    before = path.read_bytes()
    with pytest.raises(UserError, match="only finished ones are packed"):
        pack(path)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def test_weights_of_a_training_in_float32_are_not_packed(tmp_path):
    path = tmp_path / "a.weights.h5"
    settings = {"training_settings": {"mixed_precision": False}}
    network = get_unet(1, 48, 48, data_format="channels_last")
    save_weights(network, path, {"history": [], "settings": settings})
    before = path.read_bytes()
    with pytest.raises(UserError, match="was trained in float32"):
        pack(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("grow", [grown_membranes.wider, grown_membranes.deeper])
def test_grown_networks_answer_as_before_but_for_noise(grow):
    keras.utils.set_random_seed(0)
    network = grown_membranes.build(2, 1)
    grown, noisy = grow(network, 2, 1, noise=0.0), grow(network, 2, 1)
    image = np.random.default_rng(0).random((1, *grown.input_shape[1:])).astype(np.float32)
    # Both give 4 x 4 pixels, of which the deeper one sees more context.
    rim = (grown.input_shape[-1] - network.input_shape[-1]) // 2
    inner = image[:, :, rim : rim + network.input_shape[-1], rim : rim + network.input_shape[-1]]
    expected = network.predict_on_batch(inner)
    np.testing.assert_allclose(grown.predict_on_batch(image), expected, atol=1e-6)
    assert np.ptp(expected) > 0.01
    assert 1e-5 < np.abs(noisy.predict_on_batch(image) - expected).max() < 0.5
    assert grown.count_params() > 3 * network.count_params()
