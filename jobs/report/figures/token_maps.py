"""Figure of the leading singular components of K and V as token maps, and how much of each lies on the subject.

They are drawn from RUN/spectra/<key>.safetensors, which `svdstory spectra RUN` makes: the pictures from the first file, the
shares from all of them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svdstory.jobs.report.figures.material import Material
from svdstory.jobs.report.figures.spectra import spectra_files
from svdstory.jobs.report.figures.style import INK, WIDTH, plt, say

Place = tuple[str, int, int]  # "k" | "v", layer, step


@dataclass(frozen=True)
class Components:
    """What one file holds. sigma: place -> (r,); maps: place -> (components, T); mask: (rows, columns) of the subject."""

    sigma: dict[Place, np.ndarray]
    maps: dict[Place, np.ndarray]
    mask: np.ndarray

    def picture(self, place: Place, i: int) -> np.ndarray:
        """u_i as a picture, (rows, columns) of the layer's tokens."""
        return self.maps[place][i].reshape(self.mask_at(place).shape)

    def mask_at(self, place: Place) -> np.ndarray:
        """The mask on the layer's tokens: the share of each that is subject."""
        coarser = round((self.mask.size / self.maps[place].shape[1]) ** 0.5)
        rows, columns = (side // coarser for side in self.mask.shape)
        return self.mask.reshape(rows, coarser, columns, coarser).mean((1, 3))

    def subject_share(self, place: Place) -> np.ndarray:
        """For each component the share of |u_i|^2 that lies on the subject; a map without a pattern has the mask's area."""
        energy = self.maps[place].astype(np.float64) ** 2
        return (energy * self.mask_at(place).ravel()).sum(1) / energy.sum(1)


def read_components(path: Path) -> Components | None:
    """None for a file that was recorded without token maps."""
    from safetensors.numpy import load_file

    content = load_file(path)
    if "mask" not in content:
        return None

    def place(name: str) -> Place:
        matrix, layer, step, *_ = name.split(".")
        return matrix, int(layer), int(step)

    return Components(
        {place(name): value for name, value in content.items() if name.count(".") == 2},
        {place(name): value for name, value in content.items() if name.endswith(".tokens")},
        content["mask"].astype(np.float64),
    )


def recorded(run: Path) -> list[Components]:
    return [found for path in spectra_files(run) if (found := read_components(path))]


def why_not_components_of_k(material: Material) -> str:
    return "" if recorded(material.study.run) else "no token maps were recorded: svdstory spectra RUN"


def draw_components_of_k(material: Material):
    """Rows: K and V of each layer, at the middle step. Columns: the subject's mask, then the leading components."""
    every = recorded(material.study.run)
    first = every[0]
    layers, steps = (sorted({place[i] for place in first.maps}) for i in (1, 2))
    step = steps[len(steps) // 2]
    rows = [(matrix, layer, step) for matrix in "kv" for layer in layers]
    count = max(len(maps) for maps in first.maps.values())
    figure, panels = plt.subplots(
        len(rows), count + 1, figsize=(WIDTH, 1.3 * len(rows) + 0.4), layout="constrained", squeeze=False
    )
    for row, place in zip(panels, rows, strict=True):
        matrix, layer, _ = place
        there = [one for one in every if place in one.maps]
        shares = np.mean([one.subject_share(place) for one in there], axis=0)
        area = np.mean([one.mask_at(place).mean() for one in there])
        row[0].imshow(first.mask_at(place), cmap="gray", vmin=0, vmax=1)
        row[0].set_title(material.word("subject's area", f"{area:.0%}"), fontsize=6.5)
        row[0].set_ylabel(f"{matrix.upper()}, {material.word('layer')} {layer}", fontsize=7)
        for i, axes in enumerate(row[1:]):
            if i >= len(first.maps[place]):
                axes.axis("off")
                continue
            picture = first.picture(place, i)
            limit = np.abs(picture).max() or 1
            axes.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit)
            share = material.word("on the subject", f"{shares[i]:.0%}")
            axes.set_title(f"$\\sigma_{i + 1}$ = {first.sigma[place][i]:.3g}\n{share}", fontsize=6.5)
        for axes in row:
            axes.set(xticks=[], yticks=[])
            for side in axes.spines.values():
                side.set(visible=True, color=INK, linewidth=0.4)
    title = f"{material.word('iteration')} {step}; {material.word('shares over', len(every))}"
    figure.suptitle(title, fontsize=7)
    say(figure, material)
    return figure
