"""One folder for each Serve deployment: its pure logic beside the thin class that wraps it."""
