"""What is refused before anything is queued: settings, methods and sets that cannot be."""

from pathlib import Path

from svdstory.pipeline.config.consolidation import consolidate_set, identity_of
from svdstory.pipeline.config.documents import expanded
from svdstory.pipeline.config.methods import Method, check_images, in_rows
from svdstory.pipeline.config.prompt_reading import positions_in, read_prompt
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.schedulers import OWN, UNREPLAYED, most_steps, own_name
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.tokens import Tokenizer, subject_positions
from svdstory.pipeline.config.tuning import knowing, worded
from svdstory.pipeline.models.spec import ModelSpec

FONTS = (b"\0\1\0\0", b"OTTO", b"true", b"ttcf")  # how font files begin


def check_setting(setting: dict, model: ModelSpec) -> None:
    """Raises InputError for a size, a number of steps or a scheduler that cannot be."""
    unit = 8 * model.pixels_per_latent()
    if any(side % unit or side <= 0 for side in setting["size"]):
        width, height = setting["size"]
        raise InputError(
            f"size {width}x{height}: model {model.name} needs multiples of {unit} pixels. Nearest: "
            + "x".join(str(max(unit, round(side / unit) * unit)) for side in setting["size"]),
            key="size",
        )
    name, steps = setting["scheduler"], setting["steps"]
    most = most_steps(name, model.own_scheduler(), setting.get("scheduler_config", {}))
    if not 1 <= steps <= most:
        raise InputError(
            f"steps {steps}: expected 1 or more, and at most {most}: {name} has no more of model {model.name}'s schedule.",
            key="steps",
        )


def check_methods(sets: dict[str, PromptSet], methods: dict[str, Method], steps: int, own: dict[str, set[str]]) -> None:
    """Raises one InputError for all methods with a switch that does nothing in any of the sets. `own`: what the
    experiment's own methods set."""
    wrong = []
    for name, method in methods.items():
        largest = max(in_rows(method, len(p.settings), len(p.references))[1] for p in sets.values())
        wrong += [f"method {name}: {why}." for why in method.idle(steps, largest, own.get(name, ()))]
        if method.inversion != "noise" and not any(p.references for p in sets.values()):
            wrong.append(f"method {name}: inversion {method.inversion} is of reference pictures, and no set has any.")
    if wrong:
        raise InputError("\n".join(wrong) + "\nLeave out what does nothing, or change the steps or the sets.")


def check_references(sets: dict[str, PromptSet], methods: dict[str, Method], scheduler: str, model: ModelSpec) -> None:
    """Raises InputError for reference pictures that a method would replay under a scheduler that cannot go along."""
    pictures = max(len(prompts.references) for prompts in sets.values())
    name = own_name(model.own_scheduler()) if scheduler == OWN else scheduler
    for method_name, method in methods.items():
        if not method.references_used(pictures) or method.function:
            continue
        if method.inversion == "ddim" and name != "ddim":
            raise InputError(
                f"method {method_name}: inversion: ddim needs scheduler: ddim, got {scheduler}. Set `scheduler: ddim` for "
                "all methods of the experiment, or use inversion: noise, which goes with any.",
                key="scheduler",
            )
        if name in UNREPLAYED:
            raise InputError(
                f"scheduler {scheduler}: reference pictures (method {method_name}) go with every scheduler but "
                f"{' and '.join(UNREPLAYED)}: choose euler or dpm++2m.",
                key="scheduler",
            )


def check_sets(
    sets: dict[str, PromptSet], methods: dict[str, Method], model: ModelSpec, chunked: bool, weighted: bool
) -> None:
    """Raises one InputError for all prompts that don't fit the model and all sets too small for a method."""
    tokenizer, wrong = model.tokenizer(), []
    for name, prompts in sets.items():
        texts = {f"prompt {i + 1}": text for i, text in enumerate(prompts.prompts)}
        texts |= {f"prompt of reference {i + 1}": text for i, text in enumerate(prompts.reference_prompts)}
        for which, text in texts.items():
            try:
                positions_in(read_prompt(text, tokenizer, chunked, weighted), prompts.concept, tokenizer)
            except InputError as error:
                wrong.append(f"prompt set {name}, {which}: {error}")
        chunks = 1
        try:
            chunks = len(read_prompt(prompts.negative, tokenizer, chunked, weighted).chunks)
        except InputError as error:
            wrong.append(f"prompt set {name}, negative: {error}")
        for m, method in methods.items():
            try:
                check_words(prompts, method, tokenizer, chunked, weighted)
                check_images(*in_rows(method, len(prompts.settings), len(prompts.references)))
                if method.oneprompt and method.references_used(len(prompts.references)):
                    raise InputError(
                        "oneprompt writes one text for all images of a set: reference pictures have no place in it. "
                        "Use the method without oneprompt, or the set without references."
                    )
                if method.oneprompt and (chunks > 1 or weighted):
                    raise InputError(
                        "oneprompt writes the texts itself: it takes no weights and no long negative prompt."
                    )
                if method.oneprompt:
                    consolidate_set(prompts, method.oneprompt, tokenizer)
                    subject_positions(identity_of(prompts), prompts.concept, tokenizer)
            except InputError as error:
                wrong.append(f"prompt set {name}, method {m}: {error}")
    if wrong:
        raise InputError("\n".join(wrong))


def check_words(prompts: PromptSet, method: Method, tokenizer: Tokenizer, chunked: bool, weighted: bool) -> None:
    """Raises InputError where a tuned subject's words don't fit the set's prompts, or those it is learned from."""
    words = method.words()
    if not words:
        return
    known, changed = knowing(tokenizer, words), worded(prompts, words)
    for text in changed.prompts:
        positions_in(read_prompt(text, known, chunked, weighted), changed.concept, known)
    if method.recipe():
        shown = [reference.setting for reference in prompts.references] or prompts.anchor_settings or ("",)
        for text in changed.model_copy(update={"settings": tuple(shown)}).prompts:
            read_prompt(text, known)


def find_font(wanted: str, near: Path) -> str:
    """The absolute path of a font file, relative to `near` or the current folder. Raises InputError for none."""
    for path in (near / expanded(wanted), Path.cwd() / expanded(wanted)):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(4) in FONTS:
                    return str(path.resolve())
            raise InputError(f"font {path}: no TrueType or OpenType font (.ttf, .otf, .ttc). Name another.", key="font")
    raise InputError(f"font {wanted!r}: there is no such file in {near} or {Path.cwd()}.", key="font")
