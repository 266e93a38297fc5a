"""A training goes on from an exported miniature: what it knew is kept, word for word."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.miniature import WEIGHTS
from svdstory.pipeline.miniature.start import start_from
from svdstory.pipeline.miniature.training_clock import load_checkpoint, save_atomically

CPU = torch.device("cpu")
FILE = "text_encoder/model.safetensors"
TABLE = "embeddings.token_embedding.weight"


def older(folder):
    """The shipped miniature as it would be if it had never learned "hat", and numbered the words the other way."""
    shutil.copytree(WEIGHTS, folder)
    tensors = load_file(folder / FILE)
    name = next(name for name in tensors if name.endswith(TABLE))
    for place in ("tokenizer", "tokenizer_2"):
        vocab = json.loads((folder / place / "vocab.json").read_text("utf-8"))
        kept = [word for word in sorted(vocab, key=vocab.get, reverse=True) if word != "hat</w>"]
        rows = [vocab[word] for word in kept]
        (folder / place / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(kept)}), "utf-8")
    for encoder in ("text_encoder", "text_encoder_2", "judges"):
        file = folder / encoder / ("clip.safetensors" if encoder == "judges" else "model.safetensors")
        several = load_file(file)
        key = next(one for one in several if one.endswith("token_embedding.weight"))
        save_file({**several, key: several[key][rows].contiguous()}, file)
    return tensors[name].float(), vocab


def test_known_words_keep_their_embeddings_at_their_new_numbers_and_new_words_get_fresh_ones(tmp_path):
    table, vocab = older(tmp_path / "older")
    assert start_from(tmp_path / "older", tmp_path / "state") == 1
    weights = load_checkpoint(tmp_path / "state" / "unet.pt", CPU)["denoiser"]
    found = next(
        tensor for name, tensor in weights.items() if name.startswith("text_encoder.") and name.endswith(TABLE)
    )
    same = (found == table).all(dim=1)
    assert [word for word, number in vocab.items() if not same[number]] == ["hat</w>"]
    assert {file.name for file in (tmp_path / "state").iterdir()} == {"vae.pt", "unet.pt", "judge.pt", "clip.pt"}


def test_a_training_that_is_there_is_left_alone_and_a_folder_without_a_miniature_is_refused(tmp_path):
    save_atomically({"mine": 1}, tmp_path / "state" / "unet.pt")
    start_from(WEIGHTS, tmp_path / "state")
    assert load_checkpoint(tmp_path / "state" / "unet.pt", CPU) == {"mine": 1}
    with pytest.raises(InputError, match="no exported miniature"):
        start_from(tmp_path, tmp_path / "state")
