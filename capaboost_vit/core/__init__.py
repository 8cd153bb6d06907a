"""The shared masked layers and the verbs that put them into a model: torch, numpy and safetensors only."""
