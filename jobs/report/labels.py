"""Names as they stand in figures and grids, in English and Russian. A method without an entry is called by its name."""

import re

from svdstory.jobs.report.escaping import drawn
from svdstory.pipeline.config.brought import ELSEWHERE
from svdstory.pipeline.config.named_methods import WITHOUT_INJECTION
from svdstory.pipeline.config.prompt_sets import PromptSet

LANGUAGES = ("en", "ru")

METHODS = [  # pattern of the name, English, Russian; {0}, {1} are the pattern's groups, {0%} a share in per cent
    ("sdxl", "SDXL", "SDXL"),
    ("sdxl-no-freeu", "SDXL without FreeU", "SDXL без FreeU"),
    ("consistory", "ConsiStory", "ConsiStory"),
    ("consistory-same-latent", "ConsiStory, same noise", "ConsiStory, общий шум"),
    ("consistory-no-attention", "ConsiStory, no extended attention", "ConsiStory без общего внимания"),
    ("consistory-dropout-(.+)", "ConsiStory, mask dropout {0}", "ConsiStory, дропаут масок {0}"),
    ("consistory-no-query-blending", "ConsiStory, no query blending", "ConsiStory без смешивания запросов"),
    ("consistory-anchors-(.+)", "ConsiStory, anchors: {0}", "ConsiStory, опорных: {0}"),
    ("consistory-ddim", "ConsiStory, pictures by DDIM", "ConsiStory, образцы через DDIM"),
    ("consistory-clip", "ConsiStory, clipped after 1", "ConsiStory, срез после 1"),
    ("unmasked", "Unmasked attention", "Внимание без масок"),
    ("unmasked-anchors-(.+)", "Unmasked, anchors: {0}", "Без масок, опорных: {0}"),
    ("svd-top-(.+)", "SVD, top {0}", "SVD, первые {0}"),
    ("svd-fraction-([0-9.]+)", "SVD {0%}", "SVD {0%}"),
    ("svd-energy-(.+)", "SVD, {0%} of energy", "SVD, {0%} энергии"),
    ("svd-kv-(.+)-(.+)", "SVD, K {0%}, V {1%}", "SVD, K {0%}, V {1%}"),
    ("svd-exp", "SVD exp", "SVD exp"),
    ("svd-log", "SVD log", "SVD log"),
    ("svd-log2", "SVD log²", "SVD log²"),
    ("svd-log-anchors-(.+)", "SVD log, anchors: {0}", "SVD log, опорных: {0}"),
    ("svd-log-fraction", "SVD log, 5 %", "SVD log, 5 %"),
    ("svd-log2-fraction", "SVD log², 5 %", "SVD log², 5 %"),
    ("svd-log-energy", "SVD log, 95 % of energy", "SVD log, 95 % энергии"),
    ("svd-log2-energy", "SVD log², 95 % of energy", "SVD log², 95 % энергии"),
    ("svd-clip-(.+)", "SVD, clipped after {0}", "SVD, срез после {0}"),
    ("svd-power-(.+)", "SVD, power {0}", "SVD, степень {0}"),
    ("svd-exp-as-printed", "SVD exp as printed", "SVD exp, как в отчёте"),
    ("svd-gavish-donoho", "SVD, Gavish-Donoho", "SVD, Гавиш — Донохо"),
    ("svd-effective-rank", "SVD, effective rank", "SVD, эффективный ранг"),
    ("random-reference", "Random reference", "Случайный образец"),
    ("random-reference-log-fraction", "Random reference, SVD log, 5 %", "Случайный образец, SVD log, 5 %"),
    ("storydiffusion", "StoryDiffusion", "StoryDiffusion"),
    ("storydiffusion-no-gate", "StoryDiffusion, no gate", "StoryDiffusion без затвора"),
    ("storydiffusion-plain-warmup", "StoryDiffusion, plain warm-up", "StoryDiffusion, начало без обмена"),
    ("storydiffusion-low-memory", "StoryDiffusion, low memory", "StoryDiffusion, экономный"),
    ("storydiffusion-paper", "StoryDiffusion, as in the paper", "StoryDiffusion, как в статье"),
    ("storydiffusion-svd", "StoryDiffusion, SVD 5 %", "StoryDiffusion, SVD 5 %"),
    ("oneprompt", "1Prompt1Story", "1Prompt1Story"),
    ("oneprompt-svr", "1Prompt1Story, SVR alone", "1Prompt1Story, только SVR"),
    ("oneprompt-ipca", "1Prompt1Story, IPCA alone", "1Prompt1Story, только IPCA"),
    ("oneprompt-svr-eot", "1Prompt1Story, end tokens scaled", "1Prompt1Story, масштаб концевых токенов"),
    ("oneprompt-paper", "1Prompt1Story, as in the paper", "1Prompt1Story, как в статье"),
    ("oneprompt-svd", "1Prompt1Story + SVD 5 %", "1Prompt1Story + SVD 5 %"),
    ("textual-inversion", "Textual Inversion", "Textual Inversion"),
    ("dreambooth-lora", "DreamBooth LoRA", "DreamBooth LoRA"),
    ("dreambooth-lora-prior", "DreamBooth LoRA, prior", "DreamBooth LoRA, с сохранением класса"),
    ("dreambooth-lora-consistory", "DreamBooth LoRA + ConsiStory", "DreamBooth LoRA + ConsiStory"),
    ("custom-diffusion", "Custom Diffusion", "Custom Diffusion"),
    ("style-aligned", "StyleAligned", "StyleAligned"),
    ("style-aligned-full", "StyleAligned, full sharing", "StyleAligned, полный обмен"),
]

WORDS = {
    "consistency": ("Subject consistency", "Согласованность объекта"),
    "alignment": ("Prompt alignment", "Соответствие запросу"),
    "leakage": ("Background leakage", "Утечка фона"),
    "layout": ("Layout diversity", "Разнообразие композиций"),
    "better": ("better", "лучше"),
    "share": ("Share of singular values kept", "Доля сохранённых сингулярных чисел"),
    "share of K": ("Share kept of K", "Доля для K"),
    "share of V": ("Share kept of V", "Доля для V"),
    "pareto": ("Pareto front", "Парето-фронт"),
    "all values": ("All singular values", "Все сингулярные числа"),
    "first 50": ("The first 50", "Первые 50"),
    "index": ("Number of the singular value", "Номер сингулярного числа"),
    "value": ("Singular value", "Сингулярное число"),
    "iteration": ("iteration", "итерация"),
    "layer": ("layer", "слой"),
    "as is": ("as it is", "исходный"),
    "good": ("good sets", "удачные наборы"),
    "bad": ("bad sets", "неудачные наборы"),
    "repaired": ("as consistent as {0} on good sets (median)", "не хуже, чем {0} на удачных наборах (медиана)"),
    "improved": ("more consistent than {0} on this set", "лучше, чем {0} на этом наборе"),
    "seed": ("seed", "зерно"),
    "references": ("reference pictures", "образцы"),
    "missing": ("not measured", "нет данных"),
    "random": ("random weights: these numbers mean nothing", "случайные веса: числа ничего не значат"),
    "noise": ("random weights: the images are noise", "случайные веса: изображения - шум"),
    "intervals": ("95 % bootstrap intervals over prompt sets, n = {0}", "95 % бутстреп-интервалы по наборам, n = {0}"),
    "incomplete": ("{0} sets left out: cells are missing", "пропущено наборов: {0} (нет ячеек)"),
    "sets": ("Prompt sets", "Наборы запросов"),
    "subject's area": ("subject, {0} of the area", "объект, {0} площади"),
    "on the subject": ("{0} on the subject", "{0} на объекте"),
    "shares over": ("shares are means over units, n = {0}", "доли: среднее по единицам, n = {0}"),
    "no injection": ("{0}, no injection", "{0}, без внедрения признаков"),
    "elsewhere": ("made elsewhere", "сделано не здесь"),
}


def method_label(name: str, lang: str = "en") -> str:
    """`svd-kv-0.01-0.05` -> `SVD, K 1 %, V 5 %`; a user's method keeps its name. A twin's label is its method's and more."""
    if name.endswith(ELSEWHERE):
        return f"{drawn(name.removesuffix(ELSEWHERE))} ({word('elsewhere', lang)})"
    if name.endswith(WITHOUT_INJECTION):
        return word("no injection", lang, method_label(name.removesuffix(WITHOUT_INJECTION), lang))
    for pattern, *texts in METHODS:
        found = re.fullmatch(pattern, name)
        if found:
            text = texts[LANGUAGES.index(lang)]
            for i, group in enumerate(found.groups()):
                text = text.replace(f"{{{i}}}", group).replace(f"{{{i}%}}", per_cent(group))
            return text
    return drawn(name)


def lead(prompts: PromptSet) -> str:
    """What all of a set's prompts begin with: `A photo of a red fox`"""
    return drawn(f"{prompts.style} {prompts.subject}")


def word(key: str, lang: str = "en", *values) -> str:
    """A label of figures. Raises KeyError for a word that is not listed."""
    return WORDS[key][LANGUAGES.index(lang)].format(*values)


def per_cent(share: str | float) -> str:
    try:
        return f"{float(share) * 100:g} %"
    except ValueError:
        return str(share)


METRICS = {
    "clipscore": ("CLIPScore", "CLIPScore"),
    "clip_i": ("CLIP-I", "CLIP-I"),
    "dino_i": ("DINO-I", "DINO-I"),
    "cqs": ("CQS", "CQS"),
    "dreamsim": ("DreamSim distance", "расстояние DreamSim"),
    "background": ("background similarity", "сходство фонов"),
    "layout": ("layout displacement", "смещение композиции"),
    "identity_distance": ("identity distance", "расстояние между объектами"),
    "body_hue_distance": ("body hue distance", "разница цвета объекта"),
    "kind_accuracy": ("kind accuracy", "точность вида объекта"),
    "scene_accuracy": ("scene accuracy", "точность сцены"),
    "accessory_accuracy": ("accessory accuracy", "точность аксессуара"),
    "scene_leakage": ("scene leakage", "утечка сцены"),
    "world_background": ("background similarity", "сходство фонов"),
    "world_layout": ("layout difference", "различие композиций"),
    "world_pose": ("pose difference", "различие поз"),
    "reference_distance": ("distance to the reference", "расстояние до образца"),
    "reference_leakage": ("leakage of the reference's scene", "утечка сцены образца"),
    "clip_i_reference": ("CLIP-I to the reference", "CLIP-I с образцом"),
    "dino_i_reference": ("DINO-I to the reference", "DINO-I с образцом"),
    "dreamsim_reference": ("DreamSim distance to the reference", "расстояние DreamSim до образца"),
    "subject": ("subject", "объект"),
    "excess over": ("minus {0}'s", "минус {0}"),
    "relative to": ("over {0}'s", "к {0}"),
}


MEANINGS = {  # what a number says, for people who never heard its name
    "clipscore": "how well each picture fits its prompt",
    "clip_i": "how alike the pictures of a set are",
    "clip_i_subject": "how alike the subject is from picture to picture",
    "dino_i": "how alike the pictures of a set are",
    "dino_i_subject": "how alike the subject is from picture to picture",
    "cqs": "whether each picture is like the others and fits its prompt, both at once",
    "cqs_subject": "whether each picture has the others' subject and fits its prompt, both at once",
    "dreamsim": "how different the pictures of a set look",
    "dreamsim_subject": "how different the subject looks from picture to picture",
    "background": "how alike the backgrounds of a set are",
    "layout": "how far things move from picture to picture",
    "layout_subject": "how far the subject moves from picture to picture",
    "identity_distance": "how different the subject is from picture to picture: 0 is one subject, 1 a new one each time",
    "body_hue_distance": "how different the subject's colour is from picture to picture, in degrees of hue",
    "kind_accuracy": "in what share of the pictures the subject is what the prompt says",
    "scene_accuracy": "in what share of the pictures the scene is what the prompt says",
    "accessory_accuracy": "in what share of the pictures the subject wears, holds or does what the prompt says",
    "scene_leakage": "how much of one picture's scene shows in the others: 0 none, 1 all",
    "world_background": "how alike the backgrounds of a set are",
    "world_layout": "how far apart the subjects of a set stand",
    "world_pose": "how differently the subjects of a set are drawn, place and all",
    "reference_distance": "how different the subject is from the reference pictures': 0 is the same one, 1 a stranger",
    "reference_leakage": "how much of a picture's background shows a reference picture's scene",
    "clip_i_reference": "how alike the pictures and the reference pictures are",
    "clip_i_reference_subject": "how alike the subjects of the pictures and of the reference pictures are",
    "dino_i_reference": "how alike the pictures and the reference pictures are",
    "dino_i_reference_subject": "how alike the subjects of the pictures and of the reference pictures are",
    "dreamsim_reference": "how different the pictures and the reference pictures look",
    "dreamsim_reference_subject": "how different the subjects of the pictures and of the reference pictures look",
}
RELATIVE = {"excess over": "beyond {0}'s on the same prompts", "relative to": "where 1 is as much as {0}'s"}


def meaning(metric: str) -> str:
    """What a metric's number says, in plain words; empty for a metric that is not listed.

    >>> meaning("background:tiny excess over sdxl")
    "how alike the backgrounds of a set are, beyond plain SDXL's on the same prompts"
    """
    name, _, rest = metric.partition(" ")
    said = MEANINGS.get(name.partition("+")[0].partition(":")[0], "")
    how, _, reference = rest.rpartition(" ")
    return f"{said}, {RELATIVE[how].format(plain_label(reference))}" if said and how else said


def plain_label(method: str) -> str:
    """A method as a sentence names it: `plain SDXL`"""
    return "plain SDXL" if method == "sdxl" else method_label(method)


def metric_label(metric: str, lang: str = "en", capital: bool = True) -> str:
    """`dreamsim_subject:dino_vitb16` -> `DreamSim distance (subject), dino_vitb16`"""
    language = LANGUAGES.index(lang)
    name, _, rest = metric.partition(" ")
    name, _, fill = name.partition("+")
    name, _, backbone = name.partition(":")
    stem = name.removesuffix("_subject")
    label = METRICS[stem][language] if stem in METRICS else stem
    label = label[:1].upper() + label[1:] if capital else label
    if stem != name:
        label += f" ({METRICS['subject'][language]})"
    how, _, reference = rest.rpartition(" ")
    if how:
        label += " " + METRICS[how][language].format(method_label(reference, lang))
    return ", ".join(part for part in (label, backbone, fill) if part)
