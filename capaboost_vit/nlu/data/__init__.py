"""Where texts and their labels come from."""

from .spec import open_texts, open_unlabelled
from .split import PREDICT, PROTOCOLS, TextData, TextSplit

__all__ = ["PREDICT", "PROTOCOLS", "TextData", "TextSplit", "open_texts", "open_unlabelled"]
