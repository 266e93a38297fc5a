"""The metrics of newer papers: CQS against a case computed by hand, DINO-I against DINO's own forward pass."""

import numpy as np
import pytest
import torch
from dreamsim.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from dreamsim.feature_extraction.vision_transformer import vit_small
from PIL import Image
from torchvision import transforms

from svdstory.pipeline.metrics import staging
from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.cqs import ConsistencyQuality, harmonic, identity
from svdstory.pipeline.metrics.random_weights import fill_randomly
from svdstory.pipeline.metrics.registry import load_scorer
from svdstory.pipeline.metrics.scorer import UnitImages


class Plane:
    """An embedder of unit vectors in the plane: a picture's by its red in degrees, a text's by the number it ends with."""

    name, protocol, caption_prefix = "plane", {"embedder": "plane"}, "A photo depicts "

    def embed(self, images):
        return self.at([np.asarray(image)[0, 0, 0] for image in images])

    def embed_texts(self, texts):
        return self.at([float(text.removeprefix(self.caption_prefix)) for text in texts])

    @staticmethod
    def at(degrees):
        angles = np.radians(np.array(degrees, dtype=np.float64))
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def red(degrees: int) -> Image.Image:
    return Image.new("RGB", (32, 32), (degrees, 0, 0))


def test_cqs_of_three_images_is_what_the_hand_computes():
    # images at 0, 60 and 180 degrees; prompts at 90, 60 and 120
    # I: (0.5 + 0) / 2, (0.5 + 0) / 2, 0      A: 2.5 cos 90 = 0, min(2.5 cos 0, 1) = 1, min(2.5 cos 60, 1) = 1
    unit = UnitImages([red(0), red(60), red(180)], ["90", "60", "120"], "s")
    values = ConsistencyQuality("cqs", Plane(), EmbeddingCache(), "noise").score(unit)
    np.testing.assert_allclose(values["cqs_images"], [0, 2 * 0.25 / 1.25, 0], atol=1e-6)
    assert values["cqs"] == pytest.approx(0.4 / 3, abs=1e-6) and "cqs_subject" not in values


def test_cqs_punishes_who_has_only_one_of_the_two():
    even, uneven = harmonic(np.array([0.5]), np.array([0.5])), harmonic(np.array([0.9]), np.array([0.1]))
    assert even == 0.5 and uneven == pytest.approx(0.18) and harmonic(np.zeros(1), np.zeros(1)) == 0


def test_one_picture_again_and_again_has_identity_1_and_a_single_image_has_no_cqs():
    assert identity(Plane.at([30, 30, 30])) == pytest.approx(1)
    unit = UnitImages([red(0)], ["0"], "s")
    assert ConsistencyQuality("cqs", Plane(), EmbeddingCache(), "noise").score(unit) == {}


def test_cqs_of_the_subject_looks_at_the_subject_alone():
    left = np.repeat([[True] * 8 + [False] * 8], 16, axis=0)
    unit = UnitImages([red(0), red(90)], ["0", "90"], "s", np.stack([left, left]))
    values = load_scorer("cqs:tiny", allow_random=True).score(unit)
    assert {"cqs", "cqs_subject"} <= values.keys() and values["cqs"] != values["cqs_subject"]


@pytest.fixture
def staged(tmp_path):
    """A weights folder with DINO's ViT-S/16 of random weights, as `prefetch` leaves it, and the same network."""
    with torch.random.fork_rng():
        model = vit_small(patch_size=16)
    fill_randomly(model, seed=3)
    path = tmp_path / staging.DINO_SMALL_FILES[0].path
    path.parent.mkdir(parents=True)
    torch.save(model.state_dict(), path)
    return tmp_path, model.eval()


def test_dino_i_from_staged_weights_equals_dinos_own_evaluation(staged):
    folder, model = staged
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((300, 260)) for _ in range(3)]
    preprocess = transforms.Compose(
        [
            transforms.Resize(256, interpolation=3),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ]
    )
    with torch.no_grad():
        x = model(torch.stack([preprocess(image) for image in images]))
    expected = [torch.cosine_similarity(x[i], x[j], dim=0).item() for i, j in ((0, 1), (0, 2), (1, 2))]
    values = load_scorer("dino-i", folder=folder).score(UnitImages(images, ["p"] * 3, "s"))
    np.testing.assert_allclose(values["dino_i_pairs"], expected, atol=1e-5)
    assert values["dino_i"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_dino_i_and_clip_i_share_no_network_and_no_name():
    networks = {}
    names = [
        load_scorer(name, allow_random=True, networks=networks).protocol["embedder"]
        for name in ("dino-i:tiny", "clip-i:tiny")
    ]
    assert len(set(names)) == 2 and set(networks) == {"dino tiny", "tiny"}
