"""Configuration as data: the catalog of variants, routing rules and profiles, checked when read.

Imports neither Ray nor an engine, so that any tool may read it.
"""
