"""Variants on llama.cpp: a continuous-batching engine on its low-level API."""
