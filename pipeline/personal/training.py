"""Tuning: a subject learned from a few pictures, an update at a time.

The loss of an update is E |target - UNet(x_t, t, c)|², x_t = add_noise(x0, eps, t), in float32 and unweighted; of prior
preservation the same on pictures of the class is added, times its weight (2208.12242, equation 2). What an update draws
depends on the subject's key and its number alone, so that a run that was interrupted goes on to the same weights.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.tuning import Recipe
from svdstory.pipeline.decoding import NotFinite
from svdstory.pipeline.models.load import Model
from svdstory.pipeline.personal.examples import Draw, Examples, draws
from svdstory.pipeline.personal.learners import Files, Learner, learner
from svdstory.pipeline.personal.placeholders import check_encoders

BETAS, EPS = (0.9, 0.999), 1e-8
SKIPPED_IN_A_ROW = 10  # updates whose gradients overflowed: then the run is not finite
PARTS = 10  # of a run, whose mean losses are kept

State = dict[str, Tensor]  # trained tensors, Adam's, losses: all that going on needs


@dataclass(frozen=True)
class Tuned:
    """files: name -> tensors in the exchange formats; losses: means of the run's tenths; skipped: updates whose
    gradients overflowed; parameters: how many numbers were trained."""

    files: Files
    losses: tuple[float, ...]
    skipped: int
    parameters: int


@dataclass
class Run:
    """Where a run stands: losses (updates,) float32 of those made."""

    made: int
    losses: Tensor
    skipped: int = 0
    in_a_row: int = 0


@dataclass(frozen=True)
class Checkpoints:
    """keep(update, state) is called every `every_s` seconds, and before a stop that `stop` asks for: then Interrupted
    is raised. start: the state to go on from."""

    start: State | None = None
    keep: Callable[[int, State], None] = lambda update, state: None
    every_s: float = 600.0
    stop: Callable[[], bool] = lambda: False
    now: Callable[[], float] = field(default=time.monotonic, repr=False)


class Interrupted(Exception):
    """The run was asked to stop."""


def tune(
    model: Model,
    examples: Sequence[Examples],
    recipe: Recipe,
    key: str,
    *,
    initial: str,
    checkpoints: Checkpoints = Checkpoints(),
    rows_at_once: int | None = None,
) -> Tuned:
    """Learn a subject by a resolved recipe: of its own examples, and with prior preservation of the class's.

    initial: the word that a token's rows begin at. rows_at_once: in a call of the UNet; None: one on a GPU, else all; the
    gradients of an update's rows are added up. Raises NotFinite, and InputError for a model that was not trained to
    predict noise or velocity, or that wears adapters.
    """
    check_encoders(model.pipe)
    scheduler, pipe = training_scheduler(model), model.pipe
    on_gpu = model.device.type == "cuda"
    rows_at_once = rows_at_once or (1 if on_gpu else recipe.pictures)
    with ExitStack() as stack:
        made = stack.enter_context(learner(pipe, recipe, key, initial))
        optimizer, scaler = optimizer_of(made), torch.amp.GradScaler(enabled=on_gpu and model.spec.dtype == "float16")
        run = restored(checkpoints.start, recipe.updates, made, optimizer, scaler)
        text = Text(model, made.text, [prompt for kind in examples for prompt in kind.prompts])
        stack.enter_context(saving_memory(model, made.text))
        shared = model, scheduler, text, made, optimizer, scaler
        kept = checkpoints.now()
        while run.made < recipe.updates:
            drawn = draws(key, run.made, examples, recipe.pictures, scheduler.config.num_train_timesteps)
            update(run, examples, drawn, rows_at_once, *shared)
            stopping = checkpoints.stop() and run.made < recipe.updates
            if stopping or checkpoints.now() - kept >= checkpoints.every_s:
                checkpoints.keep(run.made, state_of(run, made, optimizer, scaler))
                kept = checkpoints.now()
            if stopping:
                raise Interrupted
        parts = run.losses.tensor_split(min(PARTS, recipe.updates))
        numbers = sum(weight.numel() for weight in made.parameters.values())
        files = made.files()
    if not all(torch.isfinite(x).all() for tensors in files.values() for x in tensors.values()):
        raise NotFinite("the tuned weights hold inf or nan")
    return Tuned(files, tuple(round(float(part.mean()), 6) for part in parts), run.skipped, numbers)


def update(run: Run, examples, drawn: list[Draw], rows_at_once: int, model, scheduler, text, made, optimizer, scaler):
    """One update of AdamW, with the gradients of all its rows added up."""
    losses = []
    for kind, draw in zip(examples, drawn):
        for rows in torch.arange(len(draw.which)).split(rows_at_once):
            part = loss_of(model, scheduler, text, kind, draw, rows) * (kind.weight / len(draw.which))
            scaler.scale(part).backward()
            losses.append(part.detach())
    total = float(torch.stack(losses).sum())  # the device is read once an update
    if not math.isfinite(total):
        raise NotFinite(f"the loss of update {run.made} is {total}")
    scaler.unscale_(optimizer)
    if made.largest_norm is not None:
        torch.nn.utils.clip_grad_norm_(list(made.parameters.values()), made.largest_norm)
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    overflowed = scaler.get_scale() < before
    run.losses[run.made] = total
    run.made, run.skipped, run.in_a_row = run.made + 1, run.skipped + overflowed, (run.in_a_row + 1) * overflowed
    if run.in_a_row >= SKIPPED_IN_A_ROW:
        raise NotFinite(f"the gradients of {run.in_a_row} updates in a row overflowed")


def loss_of(model: Model, scheduler, text: "Text", kind: Examples, draw: Draw, rows: Tensor) -> Tensor:
    """The sum of the rows' losses, each the mean over its latents."""
    device, dtype = model.device, model.pipe.unet.dtype
    which, noise, timesteps = draw.which[rows], draw.noise[rows], draw.timesteps[rows]
    x0 = kind.latents[which]
    noisy = scheduler.add_noise(x0, noise, timesteps)
    wants_noise = scheduler.config.prediction_type == "epsilon"
    target = noise if wants_noise else scheduler.get_velocity(x0, noise, timesteps)
    mixed = device.type == "cuda" and dtype != torch.float32
    with torch.autocast(device.type, dtype if mixed else torch.bfloat16, enabled=mixed):
        embeds, pooled = text([kind.prompts[i] for i in which.tolist()])
        height, width = (side * model.pipe.vae_scale_factor for side in x0.shape[-2:])
        time_ids = torch.tensor([height, width, 0, 0, height, width], dtype=embeds.dtype, device=device)
        known = {"text_embeds": pooled, "time_ids": time_ids.expand(len(which), -1)}
        noisy, timesteps = noisy.to(device, dtype), timesteps.to(device)
        predicted = model.pipe.unet(noisy, timesteps, encoder_hidden_states=embeds, added_cond_kwargs=known).sample
    return F.mse_loss(predicted.float(), target.to(device).float(), reduction="none").mean(dim=(1, 2, 3)).sum()


class Text:
    """The prompts' embeddings and pooled ones, by the pipeline's own encoders: once, or anew where they are learned."""

    def __init__(self, model: Model, learned: bool, prompts: Sequence[str]):
        self.model = model
        with torch.no_grad():
            self.known = {} if learned else {prompt: self.encoded([prompt]) for prompt in dict.fromkeys(prompts)}

    def encoded(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        found = self.model.pipe.encode_prompt(prompts, device=self.model.device, do_classifier_free_guidance=False)
        return found[0], found[2]

    def __call__(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """(N, L, D) and (N, P)."""
        if not self.known:
            return self.encoded(prompts)
        embeds, pooled = zip(*(self.known[prompt] for prompt in prompts))
        return torch.cat(embeds), torch.cat(pooled)


def training_scheduler(model: Model) -> DDPMScheduler:
    """The noise that the model was trained with. Raises InputError for one that this training isn't for."""
    own, pipe = model.pipe.scheduler.config, model.pipe
    kind = own.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction") or "EDM" in type(pipe.scheduler).__name__:
        raise InputError(
            f"tuning: model {model.spec.name} predicts {kind} with {type(pipe.scheduler).__name__}: only "
            "models that predict noise or velocity on SDXL's schedule can be tuned."
        )
    if model.spec.loras or pipe.get_active_adapters():
        raise InputError(f"tuning: model {model.spec.name} wears LoRA, which training would change. Take one without.")
    return DDPMScheduler.from_config(own)


def optimizer_of(made: Learner) -> torch.optim.AdamW:
    rates = sorted(set(made.rates.values()))
    groups = [
        {"params": [weight for name, weight in made.parameters.items() if made.rates[name] == rate], "lr": rate}
        for rate in rates
    ]
    return torch.optim.AdamW(groups, betas=BETAS, eps=EPS, weight_decay=made.weight_decay)


def state_of(run: Run, made: Learner, optimizer, scaler) -> State:
    """All that going on needs, copied to the CPU."""
    state = {f"trained.{name}": weight for name, weight in made.parameters.items()}
    for name, weight in made.parameters.items():
        state |= {f"adam.{name}.{what}": value for what, value in optimizer.state[weight].items()}
    scale = scaler.state_dict()
    counts = [run.made, run.skipped, run.in_a_row, scale.get("_growth_tracker", 0)]
    state |= {"counts": torch.tensor(counts), "scale": torch.tensor(scale.get("scale", 0.0)), "losses": run.losses}
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def restored(state: State | None, updates: int, made: Learner, optimizer, scaler) -> Run:
    """The run at its beginning, or where `state` left it."""
    if state is None:
        return Run(0, torch.zeros(updates))
    with torch.no_grad():
        for name, weight in made.parameters.items():
            weight.copy_(state[f"trained.{name}"])
            kept = {
                what: state[f"adam.{name}.{what}"].clone()
                for what in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{name}.{what}" in state
            }
            optimizer.state[weight] = {what: x if what == "step" else x.to(weight.device) for what, x in kept.items()}
    made_updates, skipped, in_a_row, growth = state["counts"].tolist()
    if scaler.is_enabled():
        scaler.load_state_dict({**scaler.state_dict(), "scale": float(state["scale"]), "_growth_tracker": growth})
    return Run(made_updates, state["losses"].clone(), skipped, in_a_row)


@contextmanager
def saving_memory(model: Model, text_learns: bool):
    """On a GPU: checkpoints of activations, and what isn't needed leaves the card."""
    if model.device.type != "cuda":
        yield
        return
    pipe = model.pipe
    encoders = (pipe.text_encoder, pipe.text_encoder_2)
    resting = (pipe.vae,) if text_learns else (pipe.vae, *encoders)
    pipe.unet.enable_gradient_checkpointing()
    for encoder in encoders if text_learns else ():
        encoder.gradient_checkpointing_enable()
        encoder.train()  # transformers looks at it; CLIP has no dropout
    try:
        for part in resting:
            part.to("cpu")
        torch.cuda.empty_cache()
        yield
    finally:
        pipe.unet.disable_gradient_checkpointing()
        for encoder in encoders if text_learns else ():
            encoder.gradient_checkpointing_disable()
            encoder.eval()
        for part in resting:
            part.to(model.device)
