"""Names that OpenAI's clients see: a job is an adaptation, a fine-tuned model is a task."""

import re

BASE_MODEL_OWNER = "system"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_FINE_TUNED = re.compile(r"ft:[^:]*:[^:]*:[^:]*:([0-9a-z]{24})")
_JOB = re.compile(r"ftjob-([0-9a-z]{24})")
# Scripts name the models that OpenAI fine-tunes; each stands for the service's backbone.
_OPENAI_BASES = re.compile(r"(gpt|chatgpt|o[0-9]|davinci|babbage|curie|ada)([.:-].*)?", re.DOTALL)
_OPENAI_EMBEDDERS = re.compile(r"text-embedding-.*", re.DOTALL)
_MAX_PART_CHARS = 64


def base_model(backbone_id: str) -> str:
    """Return the name of a backbone, without folders and owners, so that a URL can carry it."""
    return safe_part(re.split(r"[/\\]", backbone_id.rstrip("/\\"))[-1])


def names_backbone(model: str, backbone: str) -> bool:
    """Return whether a base model is the backbone, or a model of OpenAI's, for which the backbone stands in."""
    return model == backbone or _OPENAI_BASES.fullmatch(model) is not None


def names_embedder(model: str, backbone: str) -> bool:
    """Return whether a model that embeds without a prompt is the backbone, or one for which it stands in."""
    return names_backbone(model, backbone) or _OPENAI_EMBEDDERS.fullmatch(model) is not None


def fine_tuned_model(backbone: str, tenant_id: str, name: str, task_id: str) -> str:
    """Return the name of a task as a model: `ft:BACKBONE:ORGANIZATION:SUFFIX:ID`."""
    return f"ft:{backbone}:{safe_part(tenant_id)}:{safe_part(name)}:{task_id.removeprefix('tsk_')}"


def task_of_model(model: str) -> str | None:
    """Return the id of the task that a fine-tuned model's name means, None for any other name.

    Only the last part decides: it is unique, and the backbone's name may change.
    """
    match = _FINE_TUNED.fullmatch(model)
    return f"tsk_{match[1]}" if match else None


def job_id(adaptation_id: str) -> str:
    """Return the id of an adaptation as a fine-tuning job."""
    return f"ftjob-{adaptation_id.removeprefix('adp_')}"


def adaptation_of_job(job: str) -> str | None:
    """Return the id of a fine-tuning job's adaptation, None if the job's id has another form."""
    match = _JOB.fullmatch(job)
    return f"adp_{match[1]}" if match else None


def safe_part(text: str) -> str:
    """Return a text as a part of a model's name; empty if nothing of it can be kept."""
    return _UNSAFE.sub("-", text)[:_MAX_PART_CHARS].strip("-")
