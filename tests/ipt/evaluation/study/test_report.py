"""The page of a study and its plots."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.evaluation.measurements import Measurement
from ipt.evaluation.study.findings import Findings, Variant
from ipt.evaluation.study.options import StudyOptions
from ipt.evaluation.study.plots import check_installed
from ipt.evaluation.study.report import write_report
from ipt.subspace.prompt_decoder import SubspaceDecoder

METHODS = ("logistic regression", "SetFit", "PT", "IST")


def measured(offset: float = 0.0, seeds: tuple[int, ...] = (0, 1)) -> list[Measurement]:
    """Measurements of two tasks; IST is 0.005 better in the second draw."""
    return [
        Measurement(name, name[0], seed, method, score + offset + seed * (method == "IST") / 200, 1.0, detail, device)
        for seed in seeds
        for name, level in (("a1", 0.5), ("b1", 0.6))
        for method, score, detail, device in (
            ("logistic regression", level, {}, None),
            ("SetFit", level + 0.05, {"seconds": 20.0}, "cuda, float32"),
            ("PT", level + 0.1, {"seconds": 9.0, "moved": name == "a1"}, None),
            ("IST", level + 0.1, {"seconds": 3.0}, None),
        )
    ]


@pytest.fixture
def findings(encoder: EncoderBackbone, tmp_path: Path) -> Findings:
    findings = Findings()
    for dim in (3, 5):
        generator = torch.Generator().manual_seed(dim)
        findings.subspaces[dim] = ipt.save_subspace(
            tmp_path / f"subspace-{dim}",
            SubspaceDecoder(dim, 4, 2, 32),
            encoder,
            task_vectors=torch.randn(3, dim, generator=generator),
            training={"tasks": ["a1", "a2", "b1"], "families": ["a", "a", "b"]},
        )
        findings.splits["seen"][dim] = measured()
        findings.splits["unseen"][dim] = measured(-0.1 if dim == 3 else 0.0)
    return findings


def test_a_report_has_every_section_with_its_plots(findings: Findings, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    findings.curve = {count: measured(count / 100) for count in (1, 4)}
    findings.ablations = {"start": [Variant("zero, tuned", [each for each in measured() if each.method == "IST"])]}
    findings.left_out = ["c2: has 5 training rows"]
    options = StudyOptions(dimensions=(3, 5), methods=METHODS, seeds=(0, 1))
    page, folder = tmp_path / "results.md", tmp_path / "results"
    write_report(page, folder, findings, options, ["b1.jsonl:7: skipped"], ["Written by hand."])
    lines = page.read_text().splitlines()
    assert lines[:4] == ["# A study of task subspaces", "", "Written by hand.", ""]
    assert "| D | E_rel, seen | E_rel, unseen | IST, seen | IST, unseen |" in lines
    # IST is 65.0 and 65.5 in the two draws, PT 65.0.
    assert "| 5 | 1.004 ± 0.005 | 1.004 ± 0.005 | 65.2 ± 0.4 | 65.2 ± 0.4 |" in lines
    [about] = [line for line in lines if line.startswith("PT tunes 64 numbers per task.")]
    assert "2 of its 4 measurements are of the words that the prompt starts as" in about
    assert "| SetFit | 60.0 ± 0.0 | 60.0 ± 0.0 | 20.0 on cuda |" in lines
    assert "| IST | 65.2 ± 0.4 | 65.2 ± 0.4 | 3.0 on cpu |" in lines
    assert "| b1 | 60.0 ± 0.0 | 65.0 ± 0.0 | 70.0 ± 0.0 | 70.2 ± 0.4 | 1.004 |" in lines
    assert "| 4 | 59.0 ± 0.0 | 69.2 ± 0.4 | none |" in lines
    assert "| zero, tuned | 65.2 ± 0.4 |" in lines
    assert lines[-2:] == ["- c2: has 5 training rows", "- b1.jsonl:7: skipped"]
    plots = {line.partition("](")[2].rstrip(")") for line in lines if line.startswith("![")}
    assert plots == {f"results/{path.name}" for path in folder.iterdir()}
    assert len(plots) == 7
    assert all((tmp_path / plot).read_bytes().startswith(b"\x89PNG") for plot in plots)


def test_sections_that_need_prompt_tuning_or_several_draws_are_omitted_without_them(
    findings: Findings, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    for by_dim in findings.splits.values():
        for dim, found in by_dim.items():
            by_dim[dim] = [each for each in found if each.seed == 0 and each.method != "PT"]
    options = StudyOptions(dimensions=(3, 5), methods=METHODS, seeds=(0,))
    write_report(tmp_path / "report.md", tmp_path / "plots", findings, options, [])
    text = (tmp_path / "report.md").read_text()
    assert "±" not in text.replace("; ± is the standard deviation", "")
    assert "E_rel" not in text
    assert "Stability" not in text
    assert "| IST | 65.0 | 65.0 | 3.0 on cpu |" in text
    assert text.endswith("## Skipped tasks and notes\n\nNothing.\n")


def test_the_report_says_how_many_draws_slow_methods_have(findings: Findings, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for by_dim in findings.splits.values():
        for dim, found in by_dim.items():
            by_dim[dim] = [each for each in found if each.seed == 0 or each.method not in ("PT", "SetFit")]
    options = StudyOptions(dimensions=(3, 5), methods=METHODS, seeds=(0, 1), slow_seeds=1, curve=(1,))
    write_report(tmp_path / "report.md", tmp_path / "plots", findings, options, [])
    text = (tmp_path / "report.md").read_text()
    assert "2 draws of examples (the first 1 for SetFit, PT, the curve over examples per label)" in text
    assert "| b1 | 60.0 ± 0.0 | 65.0 | 70.0 | 70.2 ± 0.4 | 1.000 |" in text  # E_rel on the draw that both have


def test_missing_matplotlib_is_an_error_that_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ipt.IptError, match="pip install"):
        check_installed()


def test_a_mean_over_some_of_the_tasks_is_compared_with_ist_on_the_same_tasks(
    findings: Findings, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    of_reference = findings.splits["unseen"][5]
    findings.splits["unseen"][5] = [
        each for each in of_reference if each.method != "SetFit" or (each.task, each.seed) == ("b1", 1)
    ]
    findings.ablations = {"start": [Variant("never measured", [])]}
    page = tmp_path / "results.md"
    write_report(page, tmp_path / "results", findings, StudyOptions(dimensions=(3, 5), methods=METHODS), [], [])
    text = page.read_text()
    assert "- SetFit was measured on 1 unseen task in 1 draw; on the same, IST has 70.5." in text
    assert text.count("was measured on") == 1
    assert "never measured" not in text


def test_the_curve_names_the_tasks_on_which_ist_is_worse(findings: Findings, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    worse = [replace(each, score=0.25) if (each.task, each.method) == ("b1", "IST") else each for each in measured()]
    findings.curve = {1: worse, 4: measured()}
    page = tmp_path / "results.md"
    write_report(page, tmp_path / "results", findings, StudyOptions(dimensions=(3, 5), methods=METHODS), [], [])
    lines = page.read_text().splitlines()
    assert any(line.startswith("| 1 |") and line.endswith("| b1 (-35.0) |") for line in lines)
    assert any(line.startswith("| 4 |") and line.endswith("| none |") for line in lines)
