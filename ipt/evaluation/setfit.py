"""SetFit on the same backbone, if its package is installed: it trains the whole model for each task.

Source: Tunstall et al., "Efficient Few-Shot Learning Without Prompts", arXiv 2209.11055. The package's
defaults are used, except for the seed and for logs and progress bars, which are switched off.
"""

from __future__ import annotations

import importlib.util
import io
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from ipt.backbones.encoder import EncoderBackbone
from ipt.data.examples import Example, labels_of
from ipt.errors import IptError


def is_installed() -> bool:
    return importlib.util.find_spec("setfit") is not None


def setfit(
    backbone: EncoderBackbone, examples: Sequence[Example], texts: Sequence[str], seed: int
) -> tuple[list[str], float]:
    """Train a SetFit model on the examples; return its label for each text, and the seconds of training.

    Raises:
        IptError: the package is not installed.
    """
    if not is_installed():
        raise IptError("SetFit is not installed: run `pip install 'intrinsic-prompt-tuning[bench]'`")
    labels = labels_of(examples)
    data = {"text": [row.input for row in examples], "label": [labels.index(row.output) for row in examples]}
    # Four packages log and show progress bars, each with its own switch; redirecting silences them all.
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        from datasets import Dataset
        from setfit import SetFitModel, Trainer, TrainingArguments, logging
        from transformers import set_seed

        logging.set_verbosity_error()
        save_sentence_transformer(backbone, Path(folder) / "model")
        set_seed(seed)
        model = SetFitModel.from_pretrained(str(Path(folder) / "model"), device=str(backbone.device))
        arguments = TrainingArguments(output_dir=folder, seed=seed, report_to="none", save_strategy="no")
        started = time.perf_counter()
        Trainer(model=model, args=arguments, train_dataset=Dataset.from_dict(data)).train()
        seconds = time.perf_counter() - started
        answers = model.predict(list(texts), show_progress_bar=False)
    return [labels[int(answer)] for answer in answers], seconds


def save_sentence_transformer(backbone: EncoderBackbone, folder: Path) -> Any:
    """Save and return the backbone as a `SentenceTransformer` with the same embeddings as `backbone.embed`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    encoder: Any = backbone.model
    encoder.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    words = modules.Transformer(str(folder), max_seq_length=backbone.max_tokens)
    pooling = modules.Pooling(backbone.hidden_size, pooling_mode=backbone.pooling)
    model = SentenceTransformer(modules=[words, pooling, modules.Normalize()], device=str(backbone.device))
    model.save(str(folder), create_model_card=False)
    return model
