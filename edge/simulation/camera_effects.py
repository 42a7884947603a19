"""Effects of a real camera on a rendered image: exposure, colour, blur, vignette, noise, compression."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Rng = np.random.Generator


@dataclass(frozen=True)
class CameraEffects:
    """Settings of the effects.

    Attributes:
        gain: Factors of B, G and R.
        gamma: Exponent of the tone curve.
        saturation: 0 is grey, 1 is unchanged.
        vignette: Darkening of the corners, 0 to 1.
        blur: Standard deviation in image widths.
        sharpen: Strength of unsharp masking.
        exposure_s: Exposure time in seconds, which causes motion blur.
        noise: Standard deviation of the noise, of 255.
        quality: JPEG quality; 100 is uncompressed.
        detail: Fraction of the resolution that compression leaves.
        readout_s: Time between the first and the last row of a rolling shutter, in seconds.
        jello: Amplitude of the waves that vibration causes with a rolling shutter, in image widths.
        colour_noise: Standard deviation of noise that differs between the colours, of 255.
        stripes: Standard deviation of fixed brightness differences between columns, of 255.
        stretches: The brightness is stretched to the full range, as by automatic gain control.
        inverts: Warm is dark, for thermal cameras.
    """

    gain: tuple[float, float, float]
    gamma: float
    saturation: float
    vignette: float
    blur: float
    sharpen: float
    exposure_s: float
    noise: float
    quality: int
    detail: float = 1.0
    readout_s: float = 0.0
    jello: float = 0.0
    colour_noise: float = 0.0
    stripes: float = 0.0
    stretches: bool = False
    inverts: bool = False


def sample_effects(rng: Rng) -> CameraEffects:
    """Sample settings of the effects; most are mild."""
    gain = math.exp(rng.normal(0, 0.13)) * np.exp(rng.normal(0, 0.045, 3))
    return CameraEffects(
        (float(gain[0]), float(gain[1]), float(gain[2])),
        math.exp(rng.normal(0, 0.16)),
        0.0 if rng.random() < 0.03 else float(rng.uniform(0.5, 1.25)),
        float(rng.uniform(0, 0.45)) if rng.random() < 0.4 else 0.0,
        float(rng.choice([0.0, 0.0015, 0.003], p=[0.6, 0.28, 0.12])),
        float(rng.uniform(0, 0.8)) if rng.random() < 0.35 else 0.0,
        float(rng.choice([0.0, 0.01, 0.03])),
        float(rng.choice([0.0, rng.uniform(1, 4), rng.uniform(4, 10)], p=[0.35, 0.5, 0.15])),
        100 if rng.random() < 0.4 else int(rng.integers(35, 95)),
    )


def apply_effects(image: Image, effects: CameraEffects, drift: tuple[float, float], rng: Rng) -> Image:
    """Return the rendered image (H, W, 3) as the camera would record it.

    Args:
        image: The rendered image.
        effects: Settings.
        drift: Motion of the image in pixels per second.
        rng: Source of the noise.
    """
    height, width = image.shape[:2]
    if effects.readout_s or effects.jello:
        image = apply_rolling_shutter(image, effects, drift, rng)
    step_x, step_y = drift[0] * effects.exposure_s, drift[1] * effects.exposure_s
    length = math.hypot(step_x, step_y)
    if length > 0.7:
        image = apply_motion_blur(image, step_x, step_y, min(length, 0.04 * width))
    if effects.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), effects.blur * width), np.uint8)
    if effects.sharpen:
        soft = cv2.GaussianBlur(image, (0, 0), max(0.004 * width, 0.8))
        image = np.asarray(cv2.addWeighted(image, 1 + effects.sharpen, soft, -effects.sharpen, 0), np.uint8)
    if effects.saturation != 1.0:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        image = np.asarray(
            cv2.addWeighted(image, effects.saturation, grey, 1 - effects.saturation, 0), np.uint8
        )
    levels = np.arange(256)[:, None] / 255
    table = 255 * np.clip(levels * effects.gain, 0, 1) ** effects.gamma
    image = np.asarray(cv2.LUT(image, table.astype(np.uint8).reshape(256, 1, 3)), np.uint8)
    if effects.vignette:
        x = np.linspace(-1, 1, width, dtype=np.float32) ** 2
        y = np.linspace(-1, 1, height, dtype=np.float32) ** 2
        fall = (255 * (1 - effects.vignette * (x[None] + y[:, None]) / 2)).astype(np.uint8)
        image = np.asarray(cv2.multiply(image, cv2.merge([fall] * 3), scale=1 / 255), np.uint8)
    if effects.noise:
        grain = rng.standard_normal((height, width), np.float32) * effects.noise
        image = np.asarray(cv2.add(image, cv2.merge([grain] * 3), dtype=cv2.CV_8U), np.uint8)
    if effects.colour_noise or effects.stripes or effects.stretches or effects.inverts:
        image = apply_sensor(image, effects, rng)
    if effects.detail < 1:
        reduced = (max(round(width * effects.detail), 8), max(round(height * effects.detail), 8))
        small = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
        if effects.quality < 100:
            small = compress(np.asarray(small, np.uint8), effects.quality)
        return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    if effects.quality < 100:
        image = compress(image, effects.quality)
    return image


def compress(image: Image, quality: int) -> Image:
    """Return the image after JPEG compression."""
    _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)


def apply_rolling_shutter(
    image: Image, effects: CameraEffects, drift: tuple[float, float], rng: Rng
) -> Image:
    """Shift each row by the motion between its readout and that of the middle row.

    The shift is at most 0.6 % of the width, so that the boxes of targets stay valid.
    """
    height, width = image.shape[:2]
    rows = np.arange(height, dtype=np.float32)
    late_s = effects.readout_s * (rows / height - 0.5)
    wave = np.sin(2 * math.pi * (3 * rows / height + rng.random()))
    limit = 0.006 * width
    shift_x = np.clip(drift[0] * late_s + effects.jello * width * wave, -limit, limit)
    shift_y = np.clip(drift[1] * late_s, -limit, limit)
    columns = np.arange(width, dtype=np.float32)[None, :]
    map_x = (columns - shift_x[:, None]).astype(np.float32)
    map_y = np.repeat((rows - shift_y)[:, None], width, axis=1).astype(np.float32)
    return np.asarray(cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def apply_sensor(image: Image, effects: CameraEffects, rng: Rng) -> Image:
    """Add the noise of a night or thermal sensor, and map its signal to 8 bits."""
    height, width = image.shape[:2]
    if effects.colour_noise:
        grain = rng.standard_normal((height, width, 3), np.float32) * effects.colour_noise
        image = np.asarray(cv2.add(image, grain, dtype=cv2.CV_8U), np.uint8)
    if effects.stripes:
        # The pattern belongs to the sensor: it is the same in all frames.
        pattern = np.random.default_rng(width).standard_normal((1, width, 1), np.float32) * effects.stripes
        whole = np.tile(pattern, (height, 1, 3))
        image = np.asarray(cv2.add(image, whole, dtype=cv2.CV_8U), np.uint8)
    if effects.stretches:
        low, high = np.percentile(image[::4, ::4], (0.5, 99.5))
        # Gain is limited, or noise would be stretched where nothing is warm.
        span = max(float(high - low), 90.0)
        low = (float(low) + float(high) - span) / 2
        table = np.clip((np.arange(256) - low) * (235 / span) + 10, 0, 255).astype(np.uint8)
        image = np.asarray(cv2.LUT(image, table), np.uint8)
    return np.asarray(cv2.bitwise_not(image), np.uint8) if effects.inverts else image


def apply_motion_blur(image: Image, step_x: float, step_y: float, length: float) -> Image:
    """Blur the image along the direction (step_x, step_y), over `length` pixels."""
    size = 2 * math.ceil(length / 2) + 1
    kernel = np.zeros((size, size), np.float32)
    norm = math.hypot(step_x, step_y)
    half = np.array([step_x, step_y]) / norm * length / 2
    ends = np.round((np.array([-half, half]) + size // 2) * 16).astype(int)
    cv2.line(kernel, tuple(ends[0]), tuple(ends[1]), 1.0, 1, cv2.LINE_AA, 4)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.uint8)
