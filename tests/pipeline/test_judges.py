"""The judges: what they are asked, what they answer, and how right the shipped ones are on renders they never saw."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from svdstory.pipeline.miniature import WEIGHTS
from svdstory.pipeline.miniature.clip import WorldClip, build_clip, contrastive_loss, load_clip, retrieval, save_clip
from svdstory.pipeline.miniature.judge_training import judge_errors, judge_loss, mix_scenes, truth_of
from svdstory.pipeline.miniature.judges import Judge, load_judge, read_pictures, save_judge
from svdstory.pipeline.miniature.stream import bare_scene, picture, pixels
from svdstory.pipeline.miniature.world import SCENE_LOOKS
from svdstory.pipeline.miniature.world.truth import PATCHES, true_reading


def held_out(count):
    return [picture("held out", number) for number in range(count)]


def images_of(pictures):
    return np.stack([one.image for one in pictures])


def test_a_perfect_judge_has_no_error():
    pictures = held_out(12)
    errors = judge_errors([true_reading(one) for one in pictures], pictures)
    wrong = {name: value for name, value in errors.items() if value != (0.0 if "error" in name else 1.0)}
    assert not {name: value for name, value in wrong.items() if "error" not in name or value > 1e-6}


def test_mixed_pictures_show_the_next_ones_look_where_the_targets_say_and_keep_their_subject():
    pictures = held_out(8)
    images, truth = pixels(pictures), truth_of(pictures)
    mixed, looks = mix_scenes(images, truth, torch.Generator().manual_seed(3))
    assert torch.allclose(looks.sum(dim=1), torch.ones(8, PATCHES, PATCHES))
    subject = (truth.mask + truth.accessory_mask)[:, None].bool().expand_as(images)
    assert torch.equal(mixed[subject], images[subject])
    changed = (mixed != images).any(dim=1)
    other = torch.nn.functional.avg_pool2d(changed[:, None].float(), 64 // PATCHES)[:, 0]
    own = looks[torch.arange(8), truth.look]
    apart = truth.look != truth.look.roll(1)
    assert changed.any() and (other[apart] <= 1 - own[apart] + 1e-6).all()


def test_the_judge_learns_a_handful_of_renders_in_a_few_steps():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Judge()
    pictures = held_out(4)
    images, truth = pixels(pictures), truth_of(pictures)
    patches = (
        torch.nn.functional.one_hot(truth.look, len(SCENE_LOOKS))
        .float()[:, :, None, None]
        .expand(-1, -1, PATCHES, PATCHES)
    )
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = judge_loss(judge(images), truth, patches)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_a_saved_judge_reads_as_the_one_that_was_saved(tmp_path):
    judge = Judge().eval()
    save_judge(judge, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"judge.safetensors"}
    images = images_of(held_out(3))
    for one, other in zip(read_pictures(judge, images), read_pictures(load_judge(tmp_path), images)):
        assert np.allclose(one.kind, other.kind, atol=1e-2) and one.mask.shape == (64, 64)
        assert 0 <= one.body_hue < 360 and 0 <= one.striped <= 1 and 0 <= one.shape <= 1


def test_pictures_of_another_size_or_type_are_refused_with_what_is_expected():
    with pytest.raises(ValueError, match=r"got float64 \(1, 64, 64, 3\), expected uint8 \(N, 64, 64, 3\)"):
        read_pictures(Judge(), np.zeros((1, 64, 64, 3)))
    with pytest.raises(ValueError, match=r"got uint8 \(1, 1024, 1024, 3\)"):
        read_pictures(Judge(), np.zeros((1, 1024, 1024, 3), np.uint8))


def test_pictures_with_one_caption_are_all_right_answers_to_it():
    vectors = torch.eye(4)[[0, 0, 1]]
    scale = torch.tensor(4.0)
    right = contrastive_loss(vectors, vectors, ["a cat", "a cat", "a bus"], scale).item()
    wrong = contrastive_loss(vectors, vectors.flip(0), ["a cat", "a cat", "a bus"], scale).item()
    assert right == pytest.approx(2 * np.log(2) / 3, abs=1e-3)  # two answers, each as good: log 2 for two of three rows
    assert wrong > 10 * right


def test_open_clips_model_pools_the_text_at_its_end_whatever_follows():
    clip = WorldClip(build_clip().eval())
    tokens = clip.tokens(["a cat", "a photo of a blue gift box in the desert"])
    ends = tokens.argmax(dim=1)
    assert tokens[torch.arange(2), ends].tolist() == [clip.tokenizer.eos_token_id] * 2
    longer = tokens.clone()
    longer[0, ends[0] + 1 :] = 7
    with torch.no_grad():
        assert torch.allclose(clip.model.encode_text(tokens)[0], clip.model.encode_text(longer)[0], atol=1e-5)


def test_a_saved_clip_scores_as_the_one_that_was_saved(tmp_path):
    model = build_clip().eval()
    save_clip(model, tmp_path)
    images, prompts = images_of(held_out(2)), ["a cat in the snow", "a bus under the sea"]
    assert np.allclose(WorldClip(model).score(images, prompts), load_clip(tmp_path).score(images, prompts), atol=5e-3)


def test_the_shipped_judge_is_right_on_renders_it_never_saw():
    pictures = held_out(120)
    errors = judge_errors(read_pictures(load_judge(WEIGHTS / "judges"), images_of(pictures)), pictures)
    assert errors["kind right"] >= 0.97 and errors["scene right"] >= 0.99 and errors["pattern right"] >= 0.95
    assert errors["accessory right"] >= 0.98 and errors["look right"] >= 0.98 and errors["accessory mask IoU"] > 0.85
    assert errors["body hue error (degrees)"] < 10 and errors["shape error"] < 0.15 and errors["mask IoU"] > 0.88


def test_the_shipped_clip_finds_the_right_kind_scene_and_accessory():
    found = retrieval(load_clip(WEIGHTS / "judges"), count=120)
    assert found["kind"] >= 0.9 and found["scene"] >= 0.95 and found["accessory"] >= 0.9


def test_of_a_picture_without_a_subject_the_judge_is_asked_its_scene_and_its_empty_mask_only():
    pictures = [*held_out(3), bare_scene(3)]
    truth = truth_of(pictures)
    found = Judge()(pixels(pictures))
    patch_look = torch.nn.functional.one_hot(truth.look, len(SCENE_LOOKS)).float()[:, :, None, None]
    patch_look = patch_look.expand(-1, -1, PATCHES, PATCHES)
    loss = judge_loss(found, truth, patch_look)
    moved = replace(
        found,
        kind=found.kind + torch.tensor([0.0, 0, 0, 1])[:, None] * torch.randn(6),
        shape=found.shape + torch.tensor([0.0, 0, 0, 1]),
    )
    assert torch.equal(judge_loss(moved, truth, patch_look), loss)
    assert (
        judge_loss(replace(found, mask=found.mask + torch.tensor([0.0, 0, 0, 3])[:, None, None]), truth, patch_look)
        > loss
    )


def test_the_shipped_judge_sees_no_subject_where_there_is_none():
    pictures = [picture("held out", number) for number in range(64)]
    judge = load_judge(WEIGHTS / "judges")
    assert np.mean([r.shows_subject for r in read_pictures(judge, images_of(pictures))]) == 1.0
    bare = np.stack([bare_scene(number).image for number in range(64)])
    assert np.mean([r.shows_subject for r in read_pictures(judge, bare)]) < 0.05
