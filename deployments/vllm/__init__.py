"""Variants on vLLM, which Ray Serve's LLM module runs: its templates, parsers, caches and sleep are vLLM's own."""
