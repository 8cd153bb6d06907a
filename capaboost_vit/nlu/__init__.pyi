from .adapters import create_from_adapter as create_from_adapter
from .adapters import load_adapter as load_adapter
from .adapters import save_adapter as save_adapter
from .anatomy import anatomy_of as anatomy_of
from .class_row import logits_only as logits_only
from .models import adapt as adapt
from .models import create_text_model as create_text_model
