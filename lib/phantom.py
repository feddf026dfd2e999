"""Draws synthetic fundus photographs, membranes, cells and sections whose ground truth is known.

They stand in for DRIVE, ISBI 2012, the Cell Tracking Challenge and data of one's own in the
demonstration and in the tests, since those data sets may not be shipped. Sizes, widths, colours and
shares were set by comparing with the real images, by eye and by measurement; nothing is copied from
them.
"""

import heapq
import math
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree
from skimage.measure import label as connected_components

# --------------------------------------------------------------------------------------------------
# Fundus photographs. The eye is grown in DRIVE pixels (DRIVE's field of view, FOV, has a radius of
# about 270) measured from the centre of the FOV, with the optic disc on the right. It is scaled,
# and mirrored for the other eye, when it is drawn.
# --------------------------------------------------------------------------------------------------
FOV_RADIUS = 270.0
AVASCULAR_RADIUS = 24.0
STEP = 2.0


@dataclass(frozen=True)
class _Eye:
    """Landmarks of one eye, (row, column) in DRIVE pixels from the centre of the FOV."""

    disc: tuple[float, float]
    disc_radius: float
    fovea: tuple[float, float]
    arcades: tuple[float, float]  # height of the upper and the lower one, in rows from the disc


@dataclass(frozen=True)
class _Canvas:
    """The picture an eye is drawn on; it translates DRIVE pixels into its own."""

    height: int
    width: int
    centre: tuple[float, float]
    scale: float
    mirror: int  # 1: disc on the right, -1: on the left

    def to_pixels(self, points):
        return np.asarray(self.centre) + self.scale * np.asarray(points) * (1, self.mirror)

    def coordinates(self):
        """Gives row and column of every pixel in DRIVE pixels from the centre of the FOV."""
        rows = (np.arange(self.height) - self.centre[0]) / self.scale
        columns = (np.arange(self.width) - self.centre[1]) / self.scale * self.mirror
        return np.meshgrid(rows, columns, indexing="ij")

    def noise(self, rng, sigma):
        """Gives noise with features of about sigma DRIVE pixels."""
        return _smooth_noise(rng, (self.height, self.width), sigma * self.scale)


@dataclass
class _Vessel:
    """A vessel as a chain of points 1 DRIVE pixel apart."""

    points: np.ndarray  # (num_points, 2) row, column
    radii: np.ndarray  # (num_points,)
    is_artery: bool
    contrast: float


@dataclass
class _Bud:
    """A place where a vessel will leave its parent."""

    start: np.ndarray
    heading: float  # radians; a step is (sin, cos) in (row, column)
    radius: float
    is_artery: bool


class _VesselBed:
    """The vessels grown so far and the pixels they cover."""

    def __init__(self, smallest_radius):
        self.vessels = []
        self.smallest_radius = smallest_radius
        self._margin = int(FOV_RADIUS) + 30
        side = 2 * self._margin + 1
        self._covered = np.zeros((side, side), np.uint8)
        self._outside = np.ones((side, side), np.uint8)
        cv2.circle(self._outside, (self._margin, self._margin), int(FOV_RADIUS), 0, -1)
        self._num_inside = np.count_nonzero(self._outside == 0)
        self._clearance = None

    def add(self, vessel):
        self.vessels.append(vessel)
        corners = np.rint(vessel.points[::3, ::-1] + self._margin).astype(int).tolist()
        for start, end, radius in zip(corners, corners[1:], vessel.radii[::3]):
            thickness = max(1, round(2 * max(radius, self.smallest_radius)))
            cv2.line(self._covered, start, end, 1, thickness)
        self._clearance = None

    def share(self):
        """Gives the share of the FOV that the vessels cover."""
        return np.count_nonzero(self._covered > self._outside) / self._num_inside

    def clearance(self, point, heading, distance):
        """Gives the free pixels, at most 30, around the place in this direction."""
        if self._clearance is None:
            free = cv2.distanceTransform(1 - self._covered, cv2.DIST_L2, 3)
            self._clearance = np.where(self._outside, 8.0, np.minimum(free, 30.0))
        row = round(point[0] + distance * math.sin(heading)) + self._margin
        column = round(point[1] + distance * math.cos(heading)) + self._margin
        last = len(self._clearance) - 1
        return self._clearance[min(max(row, 0), last), min(max(column, 0), last)]


def fundus(rng_or_seed, height=584, width=565):
    """Draws a fundus photograph with its vessels and its field of view, in the manner of DRIVE.

    Args:
        rng_or_seed: numpy Generator, or an int that seeds one; the same seed gives the same image.
        height: rows of the image, in pixels.
        width: columns of the image, in pixels.
    Returns:
        image: (height, width, 3) uint8 RGB.
        vessels: (height, width) uint8 in {0, 1}, 1 = vessel; none outside the field of view.
        fov: (height, width) uint8 in {0, 1}, 1 = inside the field of view.
    """
    rng = np.random.default_rng(rng_or_seed)
    eye, canvas = _draw_eye(rng), _draw_canvas(rng, height, width)
    smallest_radius = max(0.7, 0.6 / canvas.scale)
    bed = _grow_vessels(rng, eye, share=rng.uniform(0.118, 0.15), smallest_radius=smallest_radius)
    fov = _field_of_view(canvas)
    vessels = _vessel_mask(bed.vessels, canvas) & fov
    capillaries = _grow_capillaries(rng, eye, bed)
    image = _paint_lesions(rng, _background(rng, eye, canvas), eye, canvas)
    image = _paint_vessels(rng, image, [*bed.vessels, *capillaries], canvas)
    return _photograph(rng, image, canvas), vessels, fov


def _draw_eye(rng):
    disc = (rng.uniform(-35, 15), rng.uniform(185, 212))
    fovea = (disc[0] + rng.uniform(5, 30), disc[1] - rng.uniform(188, 212))
    return _Eye(disc, rng.uniform(33, 40), fovea, tuple(rng.uniform(135, 185, 2)))


def _draw_canvas(rng, height, width):
    scale = min(height / 584, width / 565)
    shift = rng.uniform(-5, 5, 2) * scale
    centre = ((height - 1) / 2 + shift[0], (width - 1) / 2 + shift[1])
    return _Canvas(height, width, centre, scale, int(rng.choice([-1, 1])))


def _field_of_view(canvas):
    return (np.hypot(*canvas.coordinates()) <= FOV_RADIUS).astype(np.uint8)


# --------------------------------------------------------------------------------------------------
# Growing the vessels.
# --------------------------------------------------------------------------------------------------
def _grow_vessels(rng, eye, share, smallest_radius):
    """Grows vessels, thick before thin, until they cover this share of the FOV."""
    bed = _VesselBed(smallest_radius)
    queue = []  # (negative radius, tie breaker, bud): the thickest bud is the next to grow
    for trunk in _trunks(rng, eye):
        bed.add(trunk)
        _push_buds(rng, queue, trunk)
    for bud in _disc_buds(rng, eye):
        heapq.heappush(queue, (-bud.radius, rng.random(), bud))
    for _ in range(3000):
        if bed.share() >= share:
            break
        bud = heapq.heappop(queue)[-1] if queue else _late_bud(rng, bed)
        is_crowded = bed.clearance(bud.start, bud.heading, 18) < 9
        if is_crowded and rng.random() < (0.4 if bud.radius > 1.6 else 0.85):
            continue
        vessel = _walk(rng, bud, eye, bed)
        if len(vessel.points) > 12:
            bed.add(vessel)
            _push_buds(rng, queue, vessel)
    return bed


def _grow_capillaries(rng, eye, bed):
    """Grows faint ends that a human annotator would leave out; they are not in the ground truth."""
    buds = [_late_bud(rng, bed) for _ in range(rng.integers(15, 40))]
    capillaries = [_walk(rng, bud, eye, bed) for bud in buds]
    for capillary in capillaries:
        capillary.contrast *= 0.35
    return [capillary for capillary in capillaries if len(capillary.points) > 12]


def _trunks(rng, eye):
    """Gives an artery and a vein along the upper and the lower temporal arcade."""
    trunks = []
    for side, height in zip((-1, 1), eye.arcades):
        apart = rng.choice([-1, 1]) * rng.uniform(10, 24)
        trunks.append(_trunk(rng, eye, side * height, rng.uniform(3.7, 4.7), False))
        trunks.append(_trunk(rng, eye, side * (height + apart), rng.uniform(2.6, 3.4), True))
    return trunks


def _trunk(rng, eye, height, radius, is_artery):
    """Leads a vessel from the disc along a quarter of an ellipse, then straight on to the edge."""
    angle = np.linspace(0, np.pi / 2, 400)
    length = (eye.disc[1] - eye.fovea[1]) * rng.uniform(0.75, 1.2)
    arc = np.stack([height * np.sin(angle), length * (np.cos(angle) - 1)], axis=1)
    onwards = np.arange(1.0, 400)
    slope = rng.uniform(-0.25, 0.25)
    tail = arc[-1] + np.stack([slope * onwards, -onwards], axis=1)
    root = np.asarray(eye.disc) + (-4 * np.sign(height), rng.uniform(-2, 8))
    points = _meander(rng, _evenly_spaced(np.concatenate([arc, tail]) + root))
    points = points[: _first_outside(points)]
    radii = radius * np.linspace(1, 0.45, len(points))
    return _Vessel(points, radii, is_artery, rng.uniform(0.9, 1.1))


def _meander(rng, points):
    """Bends a trunk in long and in short waves; its root stays where it is."""
    shape = points.shape
    smooth = gaussian_filter1d(points, 12, axis=0, mode="nearest")
    waves = gaussian_filter1d(rng.normal(size=shape), 24, axis=0) * 38
    waves += gaussian_filter1d(rng.normal(size=shape), 8, axis=0) * 6
    return smooth + waves * np.minimum(np.arange(len(points)) / 70, 1)[:, None]


def _disc_buds(rng, eye):
    """Gives the nasal vessels and the small ones from the disc towards the macula."""
    headings = np.concatenate(
        [
            np.radians([-100, -70, -40, 40, 70, 100]) + rng.normal(0, 0.15, 6),
            np.pi + np.radians([-32, -14, 10, 30]) + rng.normal(0, 0.1, 4),
        ]
    )
    radii = np.concatenate([rng.uniform(1.3, 2.6, 6), rng.uniform(0.9, 1.5, 4)])
    kept = rng.permutation(10)[: rng.integers(7, 11)]
    start = np.asarray(eye.disc) + (0, 4)
    return [
        _Bud(start + rng.normal(0, 3, 2), headings[i], radii[i], bool(rng.random() < 0.5))
        for i in kept
    ]


def _push_buds(rng, queue, vessel):
    """Plants buds along a vessel, about 30 pixels apart, and one or two at its end."""
    position = rng.exponential(15) + 14
    while position < len(vessel.points) - 4:
        bud = _bud_at(rng, vessel, int(position))
        heapq.heappush(queue, (-bud.radius * rng.uniform(0.6, 1.4), rng.random(), bud))
        position += 8 + rng.exponential(24)


def _bud_at(rng, vessel, position):
    before, here = vessel.points[max(position - 4, 0)], vessel.points[position]
    heading = math.atan2(*(here - before))
    turn = rng.choice([-1, 1]) * rng.uniform(0.5, 1.3)
    radius = vessel.radii[position] * np.clip(rng.normal(0.62, 0.15), 0.35, 0.9)
    return _Bud(here, heading + turn, max(radius, 0.9), vessel.is_artery)


def _late_bud(rng, bed):
    """Gives a thin bud where there is most room, out of twelve."""
    buds = []
    for _ in range(12):
        vessel = bed.vessels[rng.integers(len(bed.vessels))]
        buds.append(_bud_at(rng, vessel, int(rng.integers(4, len(vessel.points)))))
    bud = max(buds, key=lambda bud: bed.clearance(bud.start, bud.heading, 22))
    bud.radius = rng.uniform(0.9, 1.9)
    return bud


def _walk(rng, bud, eye, bed):
    """Lets a vessel grow from its bud: it meanders, keeps clear of the others and tapers."""
    num_steps = int((25 + bud.radius * rng.uniform(55, 95)) / STEP)
    bends = gaussian_filter1d(rng.normal(size=num_steps), 3) * rng.uniform(0.08, 0.28)
    turn = _turn(bud, eye)
    point, heading, points = bud.start, bud.heading, [bud.start]
    for step, bend in enumerate(bends):
        goal = math.atan2(eye.fovea[0] - point[0], eye.fovea[1] - point[1]) + turn
        heading += bend + 0.035 * math.sin(goal - heading) + _swerve(bed, point, heading)
        point = point + (STEP * math.sin(heading), STEP * math.cos(heading))
        if _must_stop(rng, bed, eye, point, heading, step):
            break
        points.append(point)
    points = _evenly_spaced(np.array(points))
    left = np.arange(len(points), 0, -1) - 1.0  # pixels left to the tip
    taper = (0.4 + 0.6 * left / (num_steps * STEP)) * np.minimum(0.4 + left / 40, 1)
    contrast = rng.uniform(0.72, 1.3) if bud.radius < 1.4 else rng.uniform(0.85, 1.1)
    return _Vessel(points, np.maximum(bud.radius * taper, 0.7), bud.is_artery, contrast)


def _turn(bud, eye):
    """Gives 0 for a vessel inside the arcades: the fovea draws it; else pi: it grows away."""
    to_fovea = np.asarray(eye.fovea) - bud.start
    faces_fovea = math.cos(bud.heading - math.atan2(*to_fovea)) > 0
    return 0.0 if faces_fovea and np.hypot(*to_fovea) < 220 else math.pi


def _swerve(bed, point, heading):
    """Gives a small turn towards the side with more room."""
    right = bed.clearance(point, heading + 0.7, 16)
    return 0.0055 * (right - bed.clearance(point, heading - 0.7, 16))


def _must_stop(rng, bed, eye, point, heading, step):
    """Stops a vessel outside the FOV, at the fovea and, often, before another vessel."""
    if math.hypot(*point) > FOV_RADIUS + 4 or math.dist(point, eye.fovea) < AVASCULAR_RADIUS:
        return True
    return step > 5 and bed.clearance(point, heading, 5) < 2 and rng.random() < 0.3


def _evenly_spaced(points):
    """Gives points 1 pixel apart along the same chain."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    position = np.concatenate([[0.0], np.cumsum(lengths)])
    even = np.arange(0.0, position[-1] + 1e-9)
    return np.stack([np.interp(even, position, points[:, axis]) for axis in (0, 1)], axis=1)


def _first_outside(points):
    outside = np.hypot(*points.T) > FOV_RADIUS + 4
    return int(np.argmax(outside)) if outside.any() else len(points)


# --------------------------------------------------------------------------------------------------
# Drawing the vessels.
# --------------------------------------------------------------------------------------------------
def _stamp(points, radii, values, profile, shape):
    """Takes the maximum of round stamps, `profile(distance, radius) * value`, at these points."""
    stamped = np.zeros(shape, np.float32)
    reach = np.ceil(radii).astype(int) + 1
    for size in np.unique(reach):
        chosen = reach == size
        offsets = np.arange(-size, size + 1)
        corner = np.rint(points[chosen]).astype(int)
        rows = corner[:, 0, None, None] + offsets[:, None]  # (num_points, side, 1)
        columns = corner[:, 1, None, None] + offsets  # (num_points, 1, side)
        distance = np.hypot(
            rows - points[chosen, 0, None, None], columns - points[chosen, 1, None, None]
        )
        stamp = profile(distance, radii[chosen, None, None]) * values[chosen, None, None]
        within = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        pixels = (rows * shape[1] + columns)[within]
        np.maximum.at(stamped.reshape(-1), pixels, stamp[within].astype(np.float32))
    return stamped


def _disc(distance, radius):
    return (distance <= radius).astype(np.float32)


def _chord(distance, radius):
    """Gives the thickness of a round vessel, spread half a pixel wider: no thin one is missed."""
    wide = radius + 0.5
    return 2 * (radius / wide) ** 2 * np.sqrt(np.maximum(wide**2 - distance**2, 0))


def _reflex(distance, radius):
    return np.exp(-0.5 * (distance / (0.3 * radius)) ** 2)


def _gather(vessels, canvas):
    """Puts vessels together: points and radii in pixels of the canvas, contrast of each point."""
    points = canvas.to_pixels(np.concatenate([vessel.points for vessel in vessels]))
    radii = np.concatenate([vessel.radii for vessel in vessels]) * canvas.scale
    contrast = np.concatenate([np.full(len(v.points), v.contrast) for v in vessels])
    return points, radii, contrast


def _vessel_mask(vessels, canvas):
    points, radii, _ = _gather(vessels, canvas)
    radii = np.maximum(radii + 0.2, 0.72)
    return _stamp(points, radii, np.ones(len(radii)), _disc, (canvas.height, canvas.width)).astype(
        np.uint8
    )


def _paint_vessels(rng, image, vessels, canvas):
    """Lets the blood absorb light: veins more than arteries, green more than red."""
    shape = (canvas.height, canvas.width)
    absorption = np.array([0.022, 0.077, 0.055]) * rng.uniform(0.85, 1.15) / canvas.scale
    for is_artery, strength in ((True, 0.85), (False, 1.0)):
        points, radii, contrast = _gather(
            [vessel for vessel in vessels if vessel.is_artery == is_artery], canvas
        )
        # A thin vessel is darker in DRIVE than the law of absorption would make it.
        contrast = contrast * (2.5 * canvas.scale / radii) ** 0.4
        thickness = _stamp(points, radii, contrast, _chord, shape)
        if is_artery:
            wide = radii > 1.6 * canvas.scale
            reflex = _stamp(points[wide], radii[wide], np.ones(wide.sum()), _reflex, shape)
            thickness *= 1 - 0.35 * reflex
        image = image * np.exp(-strength * absorption * thickness[..., None])
    return image


# --------------------------------------------------------------------------------------------------
# What lies behind the vessels, and the camera.
# --------------------------------------------------------------------------------------------------
def _smooth_noise(rng, shape, sigma):
    """Gives noise of mean 0 and standard deviation 1 with features of about sigma pixels."""
    step = max(sigma, 0.5)
    small = [max(int(side / step) + 4, 4) for side in shape]
    coarse = rng.normal(size=small).astype(np.float32)
    fine = cv2.resize(coarse, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    fine = fine[: shape[0], : shape[1]]
    return (fine - fine.mean()) / fine.std()


def _background(rng, eye, canvas):
    """Paints the fundus without vessels, (height, width, 3) float, 0..255 and above."""
    row, column = canvas.coordinates()
    red = rng.uniform(160, 225)
    green = red * rng.uniform(0.52, 0.66)
    colour = np.array([red, green, green * rng.uniform(0.5, 0.64)])
    image = colour * _light(rng, row, column, canvas)
    image *= _texture(rng, canvas)
    image = _paint_fovea(rng, image, row, column, eye)
    return _paint_disc(rng, image, row, column, eye)


def _light(rng, row, column, canvas):
    """Gives uneven light: a bright spot off the centre, darker and greener towards the edge."""
    spot = rng.uniform(-90, 90, 2)
    distance = np.hypot(row - spot[0], column - spot[1]) / FOV_RADIUS
    fall = distance[..., None] ** 2 * np.array([0.2, 0.13, 0.17]) * rng.uniform(0.7, 1.5)
    patches = canvas.noise(rng, 110)[..., None] * np.array([0.04, 0.05, 0.05])
    tint = canvas.noise(rng, 140)[..., None] * np.array([0.015, -0.02, -0.02])
    return 1.06 - fall + patches + tint


def _texture(rng, canvas):
    """Gives the mottled choroid: blurred broad vessels in red, fine grain in every channel."""
    broad = np.abs(canvas.noise(rng, 16)) - 0.8
    mottle = canvas.noise(rng, 9)
    grain = canvas.noise(rng, 3)
    strength = rng.uniform(0.5, 1.3)
    texture = broad[..., None] * np.array([0.02, 0.02, 0.02]) * strength
    texture += mottle[..., None] * np.array([0.009, 0.013, 0.01]) * strength
    return 1 + texture + grain[..., None] * np.array([0.01, 0.014, 0.01])


def _paint_fovea(rng, image, row, column, eye):
    distance = np.hypot(row - eye.fovea[0], column - eye.fovea[1])
    macula = np.exp(-0.5 * (distance / rng.uniform(32, 48)) ** 2)
    pit = np.exp(-0.5 * (distance / rng.uniform(10, 16)) ** 2)
    depth = rng.uniform(0.6, 1.2)
    shade = macula[..., None] * np.array([0.1, 0.17, 0.18]) + pit[..., None] * 0.08
    return image * (1 - depth * shade)


def _paint_disc(rng, image, row, column, eye):
    row, column = (row - eye.disc[0]) / 1.1, column - eye.disc[1]
    distance = np.hypot(row, column) / eye.disc_radius
    halo = np.exp(-0.5 * ((distance - 0.8) / 0.55) ** 2)[..., None]
    image = image * (1 + halo * np.array([0.03, 0.12, 0.1]))
    rim = _sigmoid((1 - distance) / 0.08)[..., None]
    cup = _sigmoid((0.5 - np.hypot(row, column + 5) / eye.disc_radius) / 0.15)[..., None]
    bright = rng.uniform(0.8, 1.0)
    disc = np.array([252, 172, 84]) * bright * (1 - 0.002 * column[..., None])
    disc = disc * (1 - cup) + np.array([266, 236, 140]) * bright * cup
    return image * (1 - rim) + disc * rim


def _sigmoid(values):
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))


def _paint_lesions(rng, image, eye, canvas):
    """Adds what a network must not take for vessels: haemorrhages, exudates and drusen."""
    severity = rng.choice([0.3, 1.0, 4.0], p=[0.5, 0.3, 0.2])
    num_dark, num_hard = rng.poisson(1.5 * severity), rng.poisson(severity)
    dark = _spots(rng, eye, canvas, num_clusters=num_dark, spread=9, size=(0.8, 3.4))
    hard = _spots(rng, eye, canvas, num_clusters=num_hard, spread=14, size=(0.8, 2.4))
    drusen = _spots(rng, eye, canvas, num_clusters=rng.poisson(4), spread=25, size=(1.0, 2.0))
    image = image * (1 - dark[..., None] * np.array([0.2, 0.36, 0.3]))
    image = image + hard[..., None] * 0.55 * (np.array([255, 225, 130]) - image)
    return image + drusen[..., None] * np.array([12, 14, 6])


def _spots(rng, eye, canvas, num_clusters, spread, size):
    """Draws clusters of small spots around the macula, (height, width) float in 0..1."""
    drawn = np.zeros((canvas.height, canvas.width), np.float32)
    for _ in range(num_clusters):
        middle = np.asarray(eye.fovea) + rng.normal(0, 85, 2)
        for spot in middle + rng.normal(0, spread, (rng.integers(2, 9), 2)):
            row, column = np.rint(canvas.to_pixels(spot) * 16).astype(int)
            radius = round(rng.uniform(*size) * canvas.scale * 16)
            cv2.circle(drawn, (int(column), int(row)), radius, rng.uniform(0.5, 1.0), -1, shift=4)
    return cv2.GaussianBlur(drawn, (0, 0), 0.9 * max(canvas.scale, 0.5))


def _photograph(rng, image, canvas):
    """Takes the picture: blur, glow and red line at the rim, black surround, noise, 8 bits."""
    row, column = canvas.coordinates()
    distance = np.hypot(row, column)
    side = 0.5 + 0.5 * np.cos(np.arctan2(row, column) - rng.uniform(-np.pi, np.pi))
    glow = side * np.exp(-(FOV_RADIUS - distance).clip(0) / 9)
    image = image + glow[..., None] * np.array([4, 26, 10])
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.7, 1.0) * max(canvas.scale, 0.5))
    image = image + _sensor_noise(rng, canvas)
    inside = _sigmoid((FOV_RADIUS - 2 - distance) * canvas.scale / 0.8)[..., None]
    surround = np.array([8, 7, 7]) + rng.normal(0, 1, image.shape)
    return np.clip(image * inside + surround * (1 - inside), 0, 255).astype(np.uint8)


def _sensor_noise(rng, canvas):
    fine = rng.normal(0, 1, (canvas.height, canvas.width, 3))
    fine = cv2.GaussianBlur(fine, (0, 0), 0.6) * np.array([5.0, 5.0, 6.0])
    shared = cv2.GaussianBlur(rng.normal(0, 1, fine.shape[:2]), (0, 0), 1.0)
    return fine + shared[..., None] * 5.0


# --------------------------------------------------------------------------------------------------
# Membranes: sections through cells that fill the space.
# --------------------------------------------------------------------------------------------------
SLICE_DISTANCE = 5.0  # pixels of depth between two slices
CELL_DEPTH = 90.0  # pixels of depth within which the seed of a cell can reach a slice
DRIFTS = {  # size of the features in the plane and length of a wave in depth / 2 pi, in pixels
    "rows": (30, 60),
    "columns": (30, 60),
    "ripple_rows": (9, 25),
    "ripple_columns": (9, 25),
    "width": (22, 25),
    "contrast": (30, 30),
    "blur": (38, 25),
}


@dataclass(frozen=True)
class _Cells:
    """Cells as a power diagram: a point belongs to the seed of smallest distance^2 - reach^2."""

    seeds: np.ndarray  # (num_cells, 3) row, column, depth in pixels
    reach: np.ndarray  # (num_cells,) pixels; the larger, the larger the cell
    brightness: np.ndarray  # (num_cells,) grey value of the cytoplasm
    vesicles: np.ndarray  # (num_cells,) share of the vesicles that a cell may have
    mitochondria: np.ndarray  # (number, 7) row, column, depth, length, width, height, angle


@dataclass(frozen=True)
class _Drift:
    """A smooth random field that changes slowly with depth, mean 0 and standard deviation 1."""

    here: np.ndarray
    there: np.ndarray
    period: float

    def at(self, depth):
        return self.here * math.cos(depth / self.period) + self.there * math.sin(
            depth / self.period
        )


def membranes(rng_or_seed, height=512, width=512, num_slices=6):
    """Draws consecutive electron microscope slices of touching cells, in the manner of ISBI 2012.

    Args:
        rng_or_seed: numpy Generator, or an int that seeds one; the same seed gives the same slices.
        height: rows of a slice, in pixels.
        width: columns of a slice, in pixels.
        num_slices: number of slices, 1 or more; the structure moves slowly from one to the next.
    Returns:
        slices: (num_slices, height, width) uint8.
        labels: (num_slices, height, width) uint8 in {0, 255}, 255 = inside of a cell, 0 = membrane.
    """
    rng = np.random.default_rng(rng_or_seed)
    shape = (height, width)
    cells = _draw_cells(rng, shape, (num_slices - 1) * SLICE_DISTANCE)
    fields = {
        name: _Drift(_smooth_noise(rng, shape, sigma), _smooth_noise(rng, shape, sigma), period)
        for name, (sigma, period) in DRIFTS.items()
    }
    drawn = [
        _draw_slice(rng, cells, fields, shape, index * SLICE_DISTANCE)
        for index in range(num_slices)
    ]
    slices, labels = zip(*drawn)
    return np.stack(slices), np.stack(labels)


def _draw_cells(rng, shape, depth):
    """Strews seeds in the space of the slices and around it."""
    border = 40.0
    low = np.array([-border, -border, -CELL_DEPTH])
    high = np.array([shape[0] + border, shape[1] + border, depth + CELL_DEPTH])
    num_cells = max(int(np.prod(high - low) / 31.0**3), 8)
    seeds = rng.uniform(low, high, (num_cells, 3))
    reach = np.minimum(rng.lognormal(3.1, 0.65, num_cells), 64.0)
    brightness = rng.normal(163, 9, num_cells)
    vesicles = rng.choice([0.05, 0.4, 1.0], num_cells, p=[0.4, 0.35, 0.25])
    large = seeds[reach > 50]
    sizes = rng.uniform((13, 9, 20, 0), (26, 16, 45, np.pi), (len(large), 4))
    places = large + rng.normal(0, 12, large.shape)
    return _Cells(seeds, reach, brightness, vesicles, np.hstack([places, sizes]))


def _draw_slice(rng, cells, fields, shape, depth):
    """Draws one slice and its label at this depth."""
    owner = _section(cells, fields, shape, depth)
    distance = _distance_to_border(owner)
    half_width = 2.5 * np.exp(0.38 * fields["width"].at(depth))
    is_membrane = distance < half_width
    label = _label(is_membrane)
    image = _paint_cytoplasm(rng, cells, owner, shape)
    image = _paint_vesicles(rng, image, cells, owner, distance)
    image = _paint_mitochondria(rng, image, cells, distance, depth)
    image = _paint_membranes(image, distance / half_width, fields, depth)
    return _expose(rng, image), label


def _section(cells, fields, shape, depth):
    """Gives the cell of each pixel, (height, width) int, on a bent grid: borders are curved."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    rows += 9 * fields["rows"].at(depth) + 0.9 * fields["ripple_rows"].at(depth)
    columns += 9 * fields["columns"].at(depth) + 0.9 * fields["ripple_columns"].at(depth)
    # A power diagram is a Voronoi diagram with one dimension more.
    lift = np.sqrt(cells.reach.max() ** 2 - cells.reach**2)
    offset = cells.seeds[:, 2] - depth
    tree = cKDTree(np.column_stack([cells.seeds[:, :2], np.hypot(lift, offset)]))
    pixels = np.column_stack([rows.ravel(), columns.ravel(), np.zeros(rows.size)])
    return tree.query(pixels)[1].reshape(shape)


def _distance_to_border(owner):
    """Gives the distance of each pixel from the border between two cells, in pixels."""
    inner = np.ones(owner.shape, np.uint8)
    inner[:-1][owner[:-1] != owner[1:]] = 0
    inner[:, :-1][owner[:, :-1] != owner[:, 1:]] = 0
    return cv2.distanceTransform(inner, cv2.DIST_L2, 5)


def _label(is_membrane):
    """Gives 255 inside the cells and 0 on membranes; specks of a cell count as membrane."""
    cells = connected_components(~is_membrane, connectivity=1)
    sizes = np.bincount(cells.ravel())
    sizes[0] = 0
    return np.where(sizes[cells] >= 30, 255, 0).astype(np.uint8)


def _paint_cytoplasm(rng, cells, owner, shape):
    image = cells.brightness[owner]
    image += 7 * _smooth_noise(rng, shape, 12) + 9 * _smooth_noise(rng, shape, 3)
    return image.astype(np.float32)


def _paint_vesicles(rng, image, cells, owner, distance):
    """Puts small rings, bright within, and dark grains into the cells; they are not membrane."""
    darkness = np.zeros_like(image)
    for _ in range(int(image.size / 130)):
        row, column = rng.integers(owner.shape[0]), rng.integers(owner.shape[1])
        radius = rng.uniform(2.2, 5.0)
        wanted = rng.random() < cells.vesicles[owner[row, column]]
        if not wanted or distance[row, column] < radius + 4:
            continue
        centre = (int(column), int(row))
        cv2.circle(darkness, centre, round(radius), rng.uniform(70, 130), 1, cv2.LINE_AA)
        if rng.random() < 0.3:
            cv2.circle(darkness, centre, 1, 80.0, -1, cv2.LINE_AA)
    return image - cv2.GaussianBlur(darkness, (0, 0), 0.5)


def _paint_mitochondria(rng, image, cells, distance, depth):
    """Puts dark striped ellipses into large cells; they are not membrane."""
    texture = 10 * _smooth_noise(rng, image.shape, 2)
    room = _sigmoid(distance - 5.0)
    for row, column, middle, length, width, height, angle in cells.mitochondria:
        size = 1 - ((depth - middle) / height) ** 2
        window = _window((row, column), 1.2 * length, image.shape)
        if size < 0.1 or window is None:
            continue
        rows, columns = np.mgrid[window].astype(np.float32)
        rows, columns = rows - row, columns - column
        along = rows * math.sin(angle) + columns * math.cos(angle)
        across = columns * math.sin(angle) - rows * math.cos(angle)
        edge = np.hypot(along / length, across / width) / math.sqrt(size)
        body = _sigmoid((1 - edge) * 12) * room[window]
        stripes = 20 * np.sin(along * 1.1 + 2 * np.sin(across / 5))
        rim = 45 * np.exp(-0.5 * ((edge - 0.93) / 0.08) ** 2)
        inside = 108 + stripes + texture[window] - rim
        image[window] = image[window] * (1 - body) + inside * body
    return image


def _window(centre, reach, shape):
    """Gives the slices of a square around a point, cut to the picture; None outside of it."""
    low = [max(int(place - reach), 0) for place in centre]
    high = [min(int(place + reach) + 1, side) for place, side in zip(centre, shape)]
    if any(first >= last for first, last in zip(low, high)):
        return None
    return tuple(slice(first, last) for first, last in zip(low, high))


def _paint_membranes(image, relative_distance, fields, depth):
    """Darkens the membranes; where the cut runs along one it is wide, faint and blurred."""
    profile = np.exp(-0.5 * (relative_distance / 0.62) ** 2)
    blurred = cv2.GaussianBlur(profile, (0, 0), 3.5) * 1.05
    oblique = _sigmoid((fields["blur"].at(depth) - 1.25) * 6)
    contrast = np.clip(0.68 + 0.1 * fields["contrast"].at(depth), 0.35, 0.9)
    return image * (1 - contrast * (profile * (1 - oblique) + blurred * oblique))


def _expose(rng, image):
    """Adds the blur and the noise of the microscope and gives 8 bits."""
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.8)
    noise = rng.normal(0, 1, image.shape)
    noise = 11 * noise + 24 * cv2.GaussianBlur(noise, (0, 0), 0.9)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------------
# Cells that touch, in differential interference contrast (DIC), as DIC-C2DH-HeLa shows them.
# --------------------------------------------------------------------------------------------------
CELL_RADIUS = 30.0
DRIFT = 1.5  # pixels a frame


def touching_cells(rng_or_seed, height=256, width=256, num_frames=6):
    """Draws a sequence of flat cells, many of which touch.

    Args:
        rng_or_seed: numpy Generator, or an int that seeds one; the same seed gives the same frames.
        height: rows of a frame, in pixels.
        width: columns of a frame, in pixels.
        num_frames: number of frames, 1 or more; the cells drift slowly from one to the next.
    Returns:
        frames: (num_frames, height, width) uint8.
        objects: (num_frames, height, width) uint16, 0 = background, each cell keeps its number.
    """
    rng = np.random.default_rng(rng_or_seed)
    places = _strew(rng, (height, width), 1.25 * CELL_RADIUS)
    radii = CELL_RADIUS * rng.uniform(0.75, 1.15, len(places))
    drifts = rng.uniform(-DRIFT, DRIFT, places.shape)
    phases = rng.uniform(0, 2 * np.pi, (len(places), 2))
    drawn = [
        _draw_touching(rng, places + index * drifts, radii, phases, (height, width))
        for index in range(num_frames)
    ]
    frames, objects = zip(*drawn)
    return np.stack(frames), np.stack(objects)


def _strew(rng, shape, distance):
    """Strews places that keep a distance, in two thirds of the frame -> (num_places, 2)."""
    places = []
    for _ in range(20 * int(np.prod(shape) / distance**2) + 20):
        place = rng.uniform((0, 0), shape)
        if all(np.hypot(*(place - other)) >= distance for other in places):
            places.append(place)
    return np.array(places[: max(2, 2 * len(places) // 3)])


def _draw_touching(rng, places, radii, phases, shape):
    """Draws one frame and the numbers of its cells."""
    offsets = np.mgrid[: shape[0], : shape[1]][:, np.newaxis] - places.T[:, :, None, None]
    angles = np.arctan2(*offsets)
    waves = 0.08 * np.sin(3 * angles + phases[:, :1, None]) + 0.05 * np.sin(
        5 * angles + phases[:, 1:, None]
    )
    outwards = np.hypot(*offsets) / (radii[:, None, None] * (1 + waves))  # 1 at the rim
    nearest = outwards.min(axis=0)
    objects = np.where(nearest < 1, outwards.argmin(axis=0) + 1, 0).astype(np.uint16)
    thickness = 12 * np.sqrt(np.clip(1 - nearest**2, 0, 1))
    thickness += 1.2 * _smooth_noise(rng, shape, 2) * (nearest < 1)
    relief = np.add(*np.gradient(cv2.GaussianBlur(thickness, (0, 0), 1.2)))
    image = 110 + 18 * relief + rng.normal(0, 4, shape)
    return np.clip(image, 0, 255).astype(np.uint8), objects


# --------------------------------------------------------------------------------------------------
# Stained cells, rods and fibres in colour: four classes with the background.
# --------------------------------------------------------------------------------------------------
CLASSES = {"background": "#e8dcd8", "cell": "#8a5fa8", "rod": "#c2395a", "fibre": "#3f8f6d"}


def stained(rng_or_seed, height=128, width=160):
    """Draws a stained section: round cells, short rods and long fibres on a bright ground.

    Args:
        rng_or_seed: numpy Generator, or an int that seeds one; a seed gives one picture.
        height: rows, in pixels.
        width: columns, in pixels.
    Returns:
        image: (height, width, 3) uint8.
        labels: (height, width) uint8, the places of CLASSES.
    """
    rng = np.random.default_rng(rng_or_seed)
    labels = np.zeros((height, width), np.uint8)
    number = max(2, height * width // 1200)
    for _ in range(max(1, number // 2)):
        _draw_line(rng, labels, length=rng.uniform(60, 140), thickness=3, value=3)
    for _ in range(number):
        _draw_line(rng, labels, length=rng.uniform(10, 18), thickness=6, value=2)
    for _ in range(number):
        axes = tuple(rng.integers(6, 12, 2).tolist())
        place = tuple(rng.integers(0, (width, height)).tolist())
        cv2.ellipse(labels, place, axes, rng.uniform(0, 180), 0, 360, 1, -1)
    colours = [[int(code[at : at + 2], 16) for at in (1, 3, 5)] for code in CLASSES.values()]
    image = np.array(colours, np.float32)[labels]
    image = cv2.GaussianBlur(image, (0, 0), 1.2)
    image *= (1 + 0.08 * _smooth_noise(rng, (height, width), 12))[..., np.newaxis]
    image += 12 * _smooth_noise(rng, (height, width), 1.5)[..., np.newaxis]
    image += rng.normal(0, 8, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), labels


def _draw_line(rng, labels, length, thickness, value):
    """Draws a slightly bent line of rounded ends into labels."""
    angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-0.01, 0.01)
    along = np.linspace(0, length, 12)
    angles = angle + bend * along
    steps = (length / 11) * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    points = rng.uniform(0, labels.shape[::-1]) + np.cumsum(steps, axis=0)
    cv2.polylines(labels, [np.rint(points).astype(np.int32)], False, value, thickness)
