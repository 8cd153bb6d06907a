"""Where images come from, and what is wrong with them."""

from .check import DataReport, check_data, unreadable
from .image_data import ImageData, parse_split
from .labels import Task
from .pixels import checked_range, decode, is_image, to_rgb
from .sheet import draw_contact_sheet
from .spec import open_configured, open_data
from .split import Split, few_shot, refuse_narrow

__all__ = [
    "DataReport",
    "ImageData",
    "Split",
    "Task",
    "check_data",
    "checked_range",
    "decode",
    "draw_contact_sheet",
    "few_shot",
    "is_image",
    "open_configured",
    "open_data",
    "parse_split",
    "refuse_narrow",
    "to_rgb",
    "unreadable",
]
