"""Text encoders by name, as options of transformers' configurations: models are built of them, none is ever fetched."""

from __future__ import annotations

from typing import Any

_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_SMALL = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_BERT = {"vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2}
_DEBERTA_V3 = {
    "vocab_size": 128100,
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}

# by name on the hub: the class of the configuration, and its options
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta-base": ("RobertaConfig", _BASE | _ROBERTA),
    "bert-base-uncased": ("BertConfig", _BASE | _BERT),
    "deberta-v3-base": ("DebertaV2Config", _BASE | _DEBERTA_V3),
    "all-MiniLM-L6-v2": ("BertConfig", _SMALL | _BERT),
}
