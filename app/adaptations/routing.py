"""Which of the process's models a dataset is tuned on."""

from app.adaptations.dataset_checks import kind_of_lists, prepare_dataset
from app.adaptations.schemas import DatasetInput
from app.predictions.model import Model
from app.predictions.models import Models
from app.settings import Settings


def choose_model(settings: Settings, models: Models, body: DatasetInput, subspace_id: str | None) -> Model:
    """Return the model of the named subspace if this process has it, otherwise the one for the kind of the dataset.

    Raises:
        InvalidError: no task can be tuned on the dataset.
        UnavailableError: the process has several models, and they are not loaded.
    """
    if len(models.all) == 1:
        return models.all[0]
    models.check_loaded()
    named = None if subspace_id is None else models.of_subspace(subspace_id)
    if named is not None:
        return named
    kind = body.kind or kind_of_lists({"examples": body.examples})
    if kind == "multilabel":
        return models.for_kind(kind)
    # A model that writes accepts both other kinds, so that only the dataset decides.
    return models.for_kind(prepare_dataset(settings, body, models.for_kind("text2text").family).kind)
