"""The owner's side of GroupQwen: the console command, the services it starts, the weights it fetches.

Fronts the scripts; serves nothing itself.
"""

__version__ = "0.1.0"
