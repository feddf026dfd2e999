"""Turns what benchmarks.run measured into Markdown tables."""

from statistics import median

NEEDS_DATA = "needs DRIVE and retina-unet's weights: UNET_TEST_DATA"
NUM_PATCHES = 190_000
CURVE_TITLES = {
    "images": ("images, photograph to figures, one pass each", "ms an image"),
    "pixels": ("image size, one pass", "ms a megapixel"),
    "stride": ("stride, on a part of an image", "ms a patch"),
    "batch": ("patches in a prediction batch", "ms a patch"),
    "patches": ("patches drawn (seconds: drawing all)", "ms to cut a batch of 32"),
}


def results(measured):
    """Writes the ratios, the share of the peak and the cost curves."""
    parts = [
        "# Benchmarks",
        _header(measured["run"]),
        "## Our way against the plain way",
        table(("what", "plain", "ours", "ratio", "mark", "how"), ratio_rows(measured)),
        "## Against the machine's limit",
        _limit_text(measured),
        table(
            ("stride 5", "patches/s", "GFLOP/s", "peak, GFLOP/s", "share", "mark"),
            limit_rows(measured),
        ),
        table(
            ("training", "patches/s", "GFLOP/s", "peak, GFLOP/s", "share"), training_rows(measured)
        ),
        "## Cost curves",
        f"Our way, {measured['ours']}; memory is the most that the process held so far.",
        *(_curve(along, answers) for along, answers in measured["curves"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def profile(measured):
    """Writes where the time of training and of stride 5 goes."""
    training = {way: answers for way, answers in measured["training"].items() if way != "plain"}
    parts = {
        "a step in fit": lambda a: a["seconds"] / a["patches"] * 32,
        "a step on a batch held in memory": lambda a: a["held"],
        "cutting a batch": lambda a: a["cut"],
    }
    stride5 = measured["profile_stride5"]
    steps = [key for key in next(iter(stride5.values()))[0] if key != "peak_memory_MB"]
    tables = [
        "# Where the time goes",
        _header(measured["run"]),
        "## Training: milliseconds of a step of 32 patches, best of the rounds",
        _profile_table(training, parts),
        "TensorFlow's `fit` cuts batches ahead, in a thread of its own: what a step takes there "
        "beyond one on a batch held in memory is all that feeding costs.",
        "## Stride 5: milliseconds of a patch, best of the rounds",
        _profile_table(stride5, {step: lambda a, step=step: a[step] for step in steps}),
    ]
    return "\n\n".join(tables) + "\n"


def _profile_table(ways, parts):
    rows = [
        [part, *(f"{1000 * min(take(a) for a in answers):.3f}" for answers in ways.values())]
        for part, take in parts.items()
    ]
    return table(("part", *ways), rows)


# ---------------------------------------------------------------- rows


def ratio_rows(measured):
    """Compares both ways: rows of what, plain, ours, ratio, mark, how."""
    real, best = measured["run"]["real"], measured["best"]
    rows = [_training_row(measured["training"], way) for way in list(measured["training"])[1:]]
    rows += [
        _rate_row("stride-5 patches/s", measured["stride5"], way, "")
        for way in list(measured["stride5"])[1:]
    ]
    image, whole = measured["image"], measured["whole_images"]
    settings = {"": image[best], ", inside_FOV": [answer["inside_FOV"] for answer in image[best]]}
    for setting, answers in settings.items():
        what = f"one image at stride 5, pixels to figures, s ({best}{setting})"
        mark, how = "3" if setting else "", "median of the rounds' ratios, by turns"
        rows.append(_seconds_row(what, (image["plain"], answers), mark, how))
        rows.append(_auc_row(image["plain"], answers, real))
    rows.append(_memory_row("the same, peak memory, MB", image["plain"], image[best]))
    for way in whole:
        rows.append(_whole_row(measured, way))
        area = f"{whole[way][0]['auc_roc']:.6f}" if real else NEEDS_DATA
        rows.append([f"the same, AUC of all images ({way})", "", area, "", "0.977", ""])
    return rows + _preparation_rows(measured) + [_figures_row(measured), _linear_row(measured)]


def _training_row(training, way):
    mark = "1.8" if "bfloat16" in way else ""
    return _rate_row("training patches/s", training, way, mark)


def _rate_row(what, ways, way, mark):
    rates = [f"{_rate(ways[name]):.0f}" for name in ("plain", way)]
    ratio = _median_ratio(ways["plain"], ways[way])
    how = "best rates; median of the rounds' ratios, by turns"
    return [f"{what} ({way})", *rates, f"{ratio:.2f}", mark, how]


def _seconds_row(what, pair, mark, how):
    seconds = [f"{_best(answers, 'seconds'):.3g}" for answers in pair]
    return [what, *seconds, f"{_median_ratio(*pair):.2f}", mark, how]


def _auc_row(plain, ours, real):
    areas = [answers[0]["auc_roc"] for answers in (plain, ours)]
    shown = [f"{area:.6f}" for area in areas] if real else ["", NEEDS_DATA]
    difference = f"{abs(areas[0] - areas[1]):.6f}"
    return ["the same, AUC", *shown, difference, "0.0002 apart", "difference in place of ratio"]


def _memory_row(what, plain, ours):
    most = [max(a["peak_memory_MB"] for a in answers) for answers in (plain, ours)]
    return [
        what,
        f"{most[0]:.0f}",
        f"{most[1]:.0f}",
        f"{most[0] / most[1]:.1f}",
        "",
        "whole process",
    ]


def _whole_row(measured, way):
    """Compares one pass with our own stride 5 on the same engine."""
    whole = _best(measured["whole_images"][way], "seconds")
    if way in measured["image"]:
        stride5 = min(a["seconds"] - a["seconds_of_figures"] for a in measured["image"][way])
        how = "both measured; our stride 5 in place of the plain way"
    else:
        stride5 = measured["run"]["patches_per_image"] / _rate(measured["stride5"][way])
        how = "stride 5 (in place of the plain way) from its rate on a strip"
    mark = "60" if way == measured["best"] else ""
    return [f"prediction of an image in one pass, s ({way})", f"{stride5:.3g}", f"{whole:.3g}",
            f"{stride5 / whole:.1f}", mark, how]  # fmt: skip


def _preparation_rows(measured):
    plain, ours = (measured["preparation"][way] for way in ("plain", measured["ours"]))
    scale = NUM_PATCHES / plain[0]["patches"]
    times = scale * _best(plain, "seconds"), _best(ours, "seconds")
    first = _best(ours, "seconds_before_first_step")
    memory = (
        scale * plain[0]["allocated_MB"],
        ours[0]["images_MB"] + ours[0]["allocated_MB"],
    )
    how = f"plain: {plain[0]['patches']:,} patches measured, scaled by {scale:.0f}"
    title = f"preparing {NUM_PATCHES:,} patches and labels"
    return [
        [f"{title}, s until the first step", f"{times[0]:.3g}", f"{first:.3g}",
         f"{times[0] / first:.0f}", "100", how],
        [f"{title}, s with all batches of an epoch cut", f"{times[0]:.3g}", f"{times[1]:.3g}",
         f"{times[0] / times[1]:.0f}", "", how],
        [f"{title}, memory, MB", f"{memory[0]:.0f}", f"{memory[1]:.0f}",
         f"{memory[0] / memory[1]:.0f}", "10", f"{how}; ours: with the images"],
    ]  # fmt: skip


def _figures_row(measured):
    plain, ours = (measured["figures"][way] for way in ("plain", measured["ours"]))
    scale = ours[0]["images"] / plain[0]["images"]
    times = scale * _best(plain, "seconds"), _best(ours, "seconds")
    what = f"figures inside the FOV of {ours[0]['images']} images, s"
    return [what, f"{times[0]:.3g}", f"{times[1]:.3g}", f"{times[0] / times[1]:.0f}", "50",
            f"plain: one image measured, scaled by {scale:.0f}"]  # fmt: skip


def _linear_row(measured):
    first, *_, last = measured["curves"]["images"]
    units = [f"{1000 * answer['unit']:.0f}" for answer in (first, last)]
    return [
        f"ms an image for {first['x']} images (left) and {last['x']} (right)",
        *units,
        f"{last['unit'] / first['unit']:.2f}",
        "0.8 to 1.2",
        f"right / left; peak memory {first['peak_memory_MB']:.0f} and "
        f"{last['peak_memory_MB']:.0f} MB",
    ]


def limit_rows(measured):
    """Gives stride 5 as a share of the peak of matrix products in the same precision."""
    rows = []
    for way, answers in measured["stride5"].items():
        mark = "60 %" if way == measured["best"] else ""
        rows.append([way, *_share(measured, way, _rate(answers), 1), mark])
    return rows


def training_rows(measured):
    """Gives training as a share of the peak; backward passes count twice the forward pass."""
    return [
        [way, *_share(measured, way, _rate(answers), 3)]
        for way, answers in measured["training"].items()
    ]


def _operations(measured):
    return next(iter(measured["stride5"].values()))[0]["operations_per_patch"]


def _share(measured, way, rate, passes):
    gflops = rate * passes * _operations(measured) / 1e9
    best = peak(measured, "bfloat16" if "bfloat16" in way else "float32")
    return [f"{rate:.0f}", f"{gflops:.0f}", f"{best:.0f}", f"{100 * gflops / best:.0f} %"]


def peak(measured, precision):
    """Gives the best rate of large matrix products in a precision, GFLOP/s."""
    return max(
        answer["gflops"]
        for way, answers in measured["matrix_product"].items()
        for answer in answers
        if (precision == "bfloat16") == ("bfloat16" in way)
    )


def _limit_text(measured):
    peaks = ", ".join(
        f"{way} {max(a['gflops'] for a in answers):.0f}"
        for way, answers in measured["matrix_product"].items()
    )
    return (
        f"The network takes {_operations(measured) / 1e6:.0f} million operations for a "
        "patch of 48 x 48 (two for each product in its convolutions; a training step three times "
        f"that). Large square matrix products by the same engines, GFLOP/s: {peaks}. The peak of a "
        "precision is the best of them."
    )


def _curve(along, answers):
    title, unit = CURVE_TITLES[along]
    rows = [
        [answer["x"], f"{answer['seconds']:.3g}", f"{1000 * answer['unit']:.3g}",
         f"{answer['peak_memory_MB']:.0f}"]
        for answer in answers
    ]  # fmt: skip
    return table((title, "s", unit, "peak memory, MB"), rows)


# ---------------------------------------------------------------- small parts


def _header(run):
    data = "DRIVE, published weights" if run["real"] else "synthetic photographs, untrained network"
    warning = " **Tiny sizes: the figures mean nothing.**" if run["quick"] else ""
    return (
        f"`{run['command']}` {run['where']}. Data: {data}. "
        f"Load of the machine at the end: {run['load']:.1f}.{warning}"
    )


def table(header, rows):
    """Writes a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _best(answers, key):
    return min(answer[key] for answer in answers)


def _rate(answers):
    return max(answer["patches"] / answer["seconds"] for answer in answers)


def _median_ratio(plain, ours):
    return median(p["seconds"] / o["seconds"] for p, o in zip(plain, ours))
