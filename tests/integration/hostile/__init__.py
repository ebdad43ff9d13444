"""Requests that no well-meaning client sends, as Hypothesis strategies. Nothing here knows a socket."""
