"""Questions whose answers are spans of a text (SQuAD v1.1 and v2): reading, windows of tokens, answers, scores."""

from .answers import Answer, best_answers, best_threshold, normalize_answer, score_answer, score_answers
from .features import Windows, encode_questions
from .opening import open_questions, open_unanswered
from .reading import Question, QuestionSplit

__all__ = [
    "Answer",
    "Question",
    "QuestionSplit",
    "Windows",
    "best_answers",
    "best_threshold",
    "encode_questions",
    "normalize_answer",
    "open_questions",
    "open_unanswered",
    "score_answer",
    "score_answers",
]
