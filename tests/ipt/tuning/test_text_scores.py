"""Token F1 and ROUGE-L, compared with values computed by hand from their definitions."""

import pytest

from ipt.tuning.text_scores import mean_scores, rouge_l, token_f1


@pytest.mark.parametrize(
    ("answer", "target", "f1", "rouge"),
    [
        ("play music please", "play music please", 1.0, 1.0),
        ("The music, please!", "music please", 1.0, 0.8),
        ("please music", "music please", 1.0, 0.5),
        # Like SQuAD's script, a word counts as often as both texts contain it.
        ("go go go", "go now", 0.4, 0.4),
        ("police killed the gunman", "the gunman police killed", 1.0, 0.5),
        ("police kill the gunman", "police killed the gunman", 2 / 3, 0.75),
        ("don't", "dont", 1.0, 0.0),
        ("Größe L", "größe XL", 0.5, 0.5),
        ("", "music", 0.0, 0.0),
        ("", "", 1.0, 0.0),
        ("the", "an", 1.0, 0.0),
    ],
)
def test_similarity_depends_on_the_common_words(answer: str, target: str, f1: float, rouge: float) -> None:
    assert token_f1(answer, target) == token_f1(target, answer) == pytest.approx(f1)
    assert rouge_l(answer, target) == rouge_l(target, answer) == pytest.approx(rouge)


def test_scores_are_means_over_all_pairs() -> None:
    scores = mean_scores(["a  b", "go go go"], ["a b", "go now"])
    assert scores == {"exact_match": 0.5, "token_f1": pytest.approx(0.7), "rouge_l": pytest.approx(0.7)}
