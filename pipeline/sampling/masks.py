"""Subject masks from cross-attention (ConsiStory, arXiv 2402.03286, section 3.1).

B images, S subject tokens, L prompt tokens, T latent tokens, K heads, D head width.
"""

from collections import deque

import torch
import torch.nn.functional as F

from svdstory.pipeline.sampling.noise import Draws

LAST_STEPS = 20  # steps that a map is averaged over


class SubjectMasks:
    """Collects the attention to the subject's tokens and turns it into masks at the end of each step."""

    def __init__(self, subject_tokens: torch.Tensor, height: int, width: int, device, ratios: tuple[int, ...] = (4, 2)):
        """`subject_tokens`: (B, S) positions in each prompt, repeated where an image has fewer than S.
        `height`, `width`: of the latents. Maps are recorded at H/4 × W/4, masks made at H/r × W/r for each r of
        `ratios` (layers.shared_ratios): SDXL's H/4 and H/2; SD's H too."""
        self.subject = subject_tokens.to(device)
        self.map_size = (height // 4, width // 4)
        self.mask_sizes = {ratio: (height // ratio, width // ratio) for ratio in ratios}
        self.maps: deque[torch.Tensor] = deque(maxlen=LAST_STEPS)
        self._masks: dict[int, torch.Tensor] = {}
        self._sum = torch.zeros(*self.subject.shape, self.map_size[0] * self.map_size[1], device=device)
        self._layers = 0

    def records(self, tokens: int) -> bool:
        """Whether a layer with that many query tokens is one of those that the maps are averaged over."""
        return tokens == self.map_size[0] * self.map_size[1]

    def record(self, rows: torch.Tensor, probabilities: torch.Tensor) -> None:
        """Add one layer's cond half: `rows` (R,) images, `probabilities` (R, K, T, L)."""
        mean = probabilities.mean(1).transpose(1, 2)  # (R, L, T)
        index = self.subject[rows][..., None].expand(-1, -1, mean.shape[-1])  # (R, S, T)
        self._sum.index_add_(0, rows, mean.gather(1, index).float())
        self._layers += 1

    def end_step(self, calls: int) -> None:
        """Close a step that took `calls` UNet calls: its map joins the average, and the masks are new."""
        self.maps.append(self._sum * (calls / self._layers))  # (B, S, T): mean over layers
        self._sum = torch.zeros_like(self._sum)
        self._layers = 0
        self._masks.clear()

    def masks(self) -> dict[int, torch.Tensor]:
        """The undropped masks after the last step, at each resolution: tokens -> (B, tokens) bool."""
        if not self._masks:
            mean = torch.stack(list(self.maps)).mean(0).unflatten(-1, self.map_size)
            for size in self.mask_sizes.values():
                resized = F.interpolate(mean, size=size, mode="bilinear", align_corners=False).flatten(2)
                self._masks[size[0] * size[1]] = (resized > otsu(resized)[..., None]).any(1)
        return self._masks

    def dropped(self, images: int, dropout: float, draws: Draws, step: int) -> dict[int, torch.Tensor]:
        """The masks of the first `images` after mask dropout at `step`: tokens -> (images, tokens) bool."""
        if not dropout:
            return {tokens: mask[:images] for tokens, mask in self.masks().items()}
        kept = {}
        for tokens, mask in self.masks().items():
            drawn = torch.stack([draws.mask_dropout(i, step, tokens) for i in range(images)])
            kept[tokens] = mask[:images] & (drawn >= dropout).to(mask.device, non_blocking=True)
        return kept


def otsu(values: torch.Tensor, bins: int = 256) -> torch.Tensor:
    """Otsu's threshold of each row, (..., N) -> (...), as skimage.filters.threshold_otsu, without host sync.

    The centre of the histogram bin that maximises the variance between the two classes it separates.
    """
    x = values.double()
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    span = (high - low).clamp_min(torch.finfo(torch.float64).tiny)
    edges = low + span * torch.linspace(0, 1, bins + 1, dtype=x.dtype, device=x.device)  # (..., bins + 1)
    bin_of = (torch.searchsorted(edges, x, right=True) - 1).clamp(0, bins - 1)
    count = torch.zeros(*x.shape[:-1], bins, dtype=x.dtype, device=x.device)
    count.scatter_add_(-1, bin_of, torch.ones_like(x))
    centre = (edges[..., :-1] + edges[..., 1:]) / 2
    weighted = count * centre
    below, above = count.cumsum(-1), count.flip(-1).cumsum(-1).flip(-1)
    mean_below = weighted.cumsum(-1) / below
    mean_above = weighted.flip(-1).cumsum(-1).flip(-1) / above
    between = below[..., :-1] * above[..., 1:] * (mean_below[..., :-1] - mean_above[..., 1:]) ** 2
    best = between.argmax(-1, keepdim=True)
    threshold = centre.gather(-1, best)
    return torch.where(high == low, low, threshold).squeeze(-1).to(values.dtype)
