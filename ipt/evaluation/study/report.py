"""Write a study's report: a Markdown page with its plots beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ipt.evaluation.methods import METHODS
from ipt.evaluation.protocol import PT_LEARNING_RATES
from ipt.evaluation.study.averages import extent, mean_score, on_common_draws, with_spread
from ipt.evaluation.study.findings import Findings
from ipt.evaluation.study.options import StudyOptions
from ipt.evaluation.study.report_sections import (
    PlotFolder,
    all_methods,
    curve,
    subspace_against_prompt_tuning,
    tasks_in_subspace,
)
from ipt.runtime.atomic_files import replace_atomically

ABLATION_TITLES = {
    "start": "Initial vectors",
    "readout": "Readouts at the first initial vector, without tuning",
    "tasks": "Number of seen tasks",
    "prompt-length": "Soft prompt length",
    "placement": "Prompt placement",
    "finding": "Way of finding the subspace",
}


def write_report(
    page: Path, plots_folder: Path, findings: Findings, options: StudyOptions, notes: Sequence[str],
    origin: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write the page, and its plots into their folder.

    Args:
        page: a Markdown file.
        plots_folder: for the plots, as PNG.
        findings: of the study, finished or not.
        options: of the study.
        notes: on skipped rows and tasks.
        origin: paragraphs on how the measurements were made.
    """
    plots = PlotFolder(plots_folder, page)
    lines = ["# A study of task subspaces", ""]
    for paragraph in (*origin, _about(findings, options)):
        lines += [paragraph, ""]
    lines += subspace_against_prompt_tuning(plots, findings)
    lines += all_methods(plots, findings, options)
    lines += curve(plots, findings)
    lines += tasks_in_subspace(plots, findings)
    lines += _ablations(findings)
    left_out = [*findings.left_out, *notes]
    lines += ["## Skipped tasks and notes", "", *([f"- {note}" for note in left_out] or ["Nothing."]), ""]
    page.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(page) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _about(findings: Findings, options: StudyOptions) -> str:
    evaluation, backbone = options.evaluation, findings.reference.manifest["backbone"]
    rates = evaluation.pt_learning_rates or PT_LEARNING_RATES[backbone["family"]]
    ids = ", ".join(f"`{subspace.id}` (D = {dim})" for dim, subspace in sorted(findings.subspaces.items()))
    draws = f"{len(options.seeds)} draws of examples"
    if options.slow_seeds is not None and options.slow_seeds < len(options.seeds):
        slow = [name for name in options.methods if METHODS[name].slow]
        rest = ["the curve over examples per label"] * bool(options.curve) + ["ablations"] * bool(options.ablations)
        draws += f" (the first {options.slow_seeds} for {', '.join([*slow, *rest])})"
    return (
        f"Subspaces on `{backbone['id']}`: {ids}. Settings: {evaluation.per_label} examples per label, {draws}, "
        f"at most {evaluation.test_rows} test rows per task. IST takes at most {evaluation.hyperparameters.steps} "
        f"steps in the subspace. PT takes {evaluation.pt_steps} steps on the whole prompt, at the best of {len(rates)} "
        "learning rates, chosen on held-back examples. Seen tasks are measured with training examples that no fit saw. "
        "Scores are in per cent; ± is the standard deviation over the draws."
    )


def _ablations(findings: Findings) -> list[str]:
    lines = []
    for name, variants in findings.ablations.items():
        measured = [variant for variant in variants if variant.measurements]
        if not measured:
            continue
        groups = on_common_draws([variant.measurements for variant in measured])
        lines += [
            f"## Ablation: {ABLATION_TITLES[name]}",
            "",
            f"Mean accuracy of the variants on the unseen tasks ({', '.join(extent(groups[0]))}).",
            "",
            "| variant | accuracy |",
            "| --- | ---: |",
        ]
        lines += [
            f"| {variant.name} | {with_spread(mean_score(group), '.1f')} |"
            for variant, group in zip(measured, groups, strict=True)
        ]
        lines.append("")
    return lines
