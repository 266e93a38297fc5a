"""What the filter's tolerance means for pictures."""

import torch

from svdstory.pipeline.bench import full_size
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.models.tiny import build_tiny
from svdstory.pipeline.sampling.denoiser import Conditioning
from svdstory.pipeline.sampling.sampler import sample
from svdstory.pipeline.spectral.bank import TOLERANCE, SpectralBank

torch.set_num_threads(1)


class OffByTheTolerance(SpectralBank):
    """Every filtered matrix is wrong by a random one of the tolerance's relative norm."""

    generator = torch.Generator().manual_seed(0)

    def __call__(self, *arguments, **named_ones):
        return tuple(self.off(x) for x in super().__call__(*arguments, **named_ones))

    def off(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(x.shape, generator=self.generator)
        return x + TOLERANCE * noise * x.norm(dim=(1, 2), keepdim=True) / noise.norm(dim=(1, 2), keepdim=True)


@torch.no_grad()
def test_filters_wrong_by_the_tolerance_change_no_pixel_by_a_quarter_of_a_grey_level(monkeypatch):
    pipe, images, side = build_tiny(), 3, 64

    def drawn(*shape):
        return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))

    time_ids = torch.tensor([side, side, 0, 0, side, side]).float()
    conditioning = Conditioning(
        drawn(images, 77, 64),
        drawn(images, 32),
        drawn(images, 77, 64),
        drawn(images, 32),
        time_ids,
        torch.full((images, 1), 5),
    )

    def picture():
        latents = sample(
            pipe.unet,
            pipe.scheduler,
            conditioning,
            named("svd-log-no-injection"),
            seed=0,
            steps=10,
            guidance=5.0,
            latents=full_size.latents(images, side),
        ).latents
        return pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample.clamp(-1, 1) * 127.5

    right = picture()
    monkeypatch.setattr("svdstory.pipeline.sampling.sampler.SpectralBank", OffByTheTolerance)
    change = (picture() - right).abs().max()
    assert 0 < change < 0.25
