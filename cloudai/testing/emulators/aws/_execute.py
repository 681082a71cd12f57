"""Runs the emulated account's work for real, on this machine."""
from cloudai.testing.emulators.aws._world import ScriptedExecutor


class LocalExecutor(ScriptedExecutor):
    def __init__(self, folder):
        super().__init__()
