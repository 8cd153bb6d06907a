"""Where texts and their labels come from."""

from .class_folders import text_files
from .spec import open_texts, open_unchosen, open_unlabelled, open_untagged
from .split import PREDICT, PROTOCOLS, TextData, TextSplit
from .words import split_words

__all__ = [
    "PREDICT",
    "PROTOCOLS",
    "TextData",
    "TextSplit",
    "open_texts",
    "open_unchosen",
    "open_unlabelled",
    "open_untagged",
    "split_words",
    "text_files",
]
