"""Whether leakage reads as what it is: known shares of other pictures' backgrounds, pasted in and measured.

    svdstory miniature calibrate --out results/reference/world

Two sources: renders, whose background and masks are known to the pixel, and the model's own plain samples of captions
that leave the scene open, which are what a study measures. N pictures, S pixels a side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from svdstory.pipeline.miniature.judges import Judge, load_judge, read_pictures
from svdstory.pipeline.miniature.stream import picture
from svdstory.pipeline.miniature.world import ACCESSORY_NAMES, KINDS, caption, draw_view, render
from svdstory.pipeline.miniature.world.leakage import background_looks, leakage_beside_plain
from svdstory.pipeline.miniature.world.truth import Reading, true_reading

SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
# How far the mean reading may lie from the share that was pasted, of renders; of samples, whose masks are the judge's.
BOUNDS = {"rendered": 0.02, "sampled": 0.04}
COUNT = 240


def pasted(image: np.ndarray, covered: np.ndarray, other: np.ndarray, share: float, turn: float) -> np.ndarray:
    """`image` (S, S, 3) with `share` of its background showing `other`'s pixels, from one side on.

    covered: bool (S, S), subject and accessory, which stay. The side lies in direction `turn` (radians); as many
    pixels change as the share says, to the nearest one.
    """
    rows, columns = np.nonzero(~covered)
    order = np.argsort(columns * np.cos(turn) + rows * np.sin(turn), kind="stable")
    chosen = order[: round(share * len(order))]
    result = image.copy()
    result[rows[chosen], columns[chosen]] = other[rows[chosen], columns[chosen]]
    return result


def readings_of_shares(
    judge: Judge,
    images: np.ndarray,
    readings: Sequence[Reading],
    others: np.ndarray,
    donors: np.ndarray,
    seed: int = 0,
) -> dict[float, np.ndarray]:
    """Share -> what each picture (N,) leaks by the judge, beside its own self without anything pasted.

    others: (N, S, S, 3), pictures that are pasted from; donors: (N, looks), what the judge sees in these.
    """
    turns = np.random.default_rng(seed).uniform(0, 2 * np.pi, len(images))
    clean = [background_looks(one) for one in read_pictures(judge, images)]
    covers = [one.mask | one.accessory_mask for one in readings]
    found = {}
    for share in SHARES:
        leaky = np.stack([pasted(*four, share, turn) for *four, turn in zip(images, covers, others, turns)])
        mixtures = [background_looks(one) for one in read_pictures(judge, leaky)]
        found[share] = np.array([_excess(mixture, own, donor) for mixture, own, donor in zip(mixtures, clean, donors)])
    return found


def _excess(mixture: np.ndarray, own: np.ndarray, donor: np.ndarray) -> float:
    """Of the pair (picture, donor) as a set that leaves its scenes open: leakage into the first, beyond its own."""
    plain = np.stack([own, donor])
    return 2 * (leakage_beside_plain([mixture, donor], plain) - leakage_beside_plain(plain, plain))


def rendered(judge: Judge, count: int = COUNT) -> dict[float, np.ndarray]:
    """Held-out renders; each is given the background of another look, which is drawn without its subject."""
    pictures = [picture("held out", number) for number in range(count)]
    others = []
    for number, one in enumerate(pictures):
        rng = np.random.default_rng((41, number))
        views = (draw_view(rng, style=one.view.style) for _ in range(1000))
        others.append(
            render(next(v for v in views if (v.scene, v.look) != (one.view.scene, one.view.look)), subject=False)
        )
    images, bare = (np.stack([one.image for one in several]) for several in (pictures, others))
    donors = np.array([background_looks(one) for one in read_pictures(judge, bare)])
    return readings_of_shares(judge, images, [true_reading(one) for one in pictures], bare, donors)


def sampled(judge: Judge, pipeline, count: int = COUNT, steps: int = 15) -> dict[float, np.ndarray]:
    """Plain samples of open captions, by their own masks. Each is given the next one's background that has another look.

    What the donor's subject covers is no background of it: there nothing is pasted, and it counts as covered.
    """
    from svdstory.pipeline.miniature.sheets import sample_pictures

    prompts = [
        caption(
            draw_view(
                np.random.default_rng((43, number)),
                kind=KINDS[number % len(KINDS)],
                accessory=ACCESSORY_NAMES[number % len(ACCESSORY_NAMES)],
                scene_named=False,
            )
        )
        for number in range(count)
    ]
    images = sample_pictures(pipeline, prompts, first_seed=70_000, steps=steps)
    readings = read_pictures(judge, images)
    looks = np.array([background_looks(one) for one in readings])
    owners, giver = looks.argmax(axis=1), []
    for number in range(count):
        giver.append(next(n % count for n in range(number + 1, number + count) if owners[n % count] != owners[number]))
    return readings_of_shares(judge, images, readings, _bare(images, readings)[giver], looks[giver])


def _bare(images: np.ndarray, readings: Sequence[Reading]) -> np.ndarray:
    """Pictures without their subjects: each row's covered pixels show the nearest background of that row."""
    result = images.copy()
    along = np.arange(images.shape[2])
    for image, reading in zip(result, readings):
        for row, covered in zip(image, reading.mask | reading.accessory_mask):
            if covered.any() and not covered.all():
                free = along[~covered]
                row[covered] = row[free[np.abs(along[covered][:, None] - free).argmin(axis=1)]]
    return result


def interval(values: np.ndarray) -> tuple[float, float]:
    """The mean's 95 % interval by the normal approximation."""
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def calibrate(weights: Path, count: int = COUNT, out: Path | None = None, samples: bool = True) -> list[dict]:
    """Measure renders (and plain samples of `weights`); rows of source, share, reading, its interval, and verdict.

    A row is right where its mean reading lies within BOUNDS of the share. Writes calibration.json and calibration.md
    to `out`.
    """
    judge = load_judge(weights / "judges")
    sources = {"rendered": rendered(judge, count)}
    if samples:
        from diffusers import StableDiffusionXLPipeline

        sources["sampled"] = sampled(judge, StableDiffusionXLPipeline.from_pretrained(weights), count)
    rows = []
    for source, found in sources.items():
        for share, values in found.items():
            low, high = interval(values)
            right = abs(float(values.mean()) - share) <= BOUNDS[source]
            rows.append(
                {
                    "source": source,
                    "share": share,
                    "reading": float(values.mean()),
                    "low": low,
                    "high": high,
                    "right": right,
                }
            )
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "calibration.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        (out / "calibration.md").write_text(table(rows, count), encoding="utf-8")
    return rows


def table(rows: list[dict], count: int) -> str:
    """The rows as Markdown."""
    lines = [
        "# Leakage reads as what was pasted",
        "",
        f"Of {count} pictures each, a share of the background was replaced by another look's, from a random side; read",
        "by the judge beside the same picture without it. Mean in per cent, 95 % interval, and the stated bound.",
        "",
        "    svdstory miniature calibrate --out results/reference/world",
        "",
        "| pictures | pasted | read | interval | bound | within |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        interval = f"{100 * row['low']:.2f} .. {100 * row['high']:.2f}"
        lines.append(
            f"| {row['source']} | {100 * row['share']:g} | {100 * row['reading']:.2f} | {interval} | "
            f"± {100 * BOUNDS[row['source']]:g} | {'yes' if row['right'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"
