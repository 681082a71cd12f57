"""Every command as a row of data: its summary, its section, its module."""

from __future__ import annotations

GROUPS: dict[str, dict[str, str]] = {
    "Work": {
        "train": "Start a training job.",
        "deploy": "Deploy a model behind an endpoint.",
        "predict": "Ask an endpoint.",
        "batch": "Transform a file, line by line.",
        "chat": "Talk to a chat model; interactive without a text.",
        "embed": "Turn texts into vectors.",
    },
    "Before it costs anything": {
        "diff": "Say what moving a job, an endpoint or a batch elsewhere would lose.",
        "rehearse spot": "Preempt a job here, and see that it resumes.",
    },
    "What there is": {
        "ls": "List all that was created from here and is not removed.",
        "status": "Show a job or an endpoint.",
        "logs": "Print a log; -f follows it.",
        "wait": "Wait for jobs to end and endpoints to be in service.",
        "cancel": "Ask jobs to stop.",
        "destroy": "Remove jobs and endpoints at their provider.",
        "adopt": "Take into the ledger what cloudai made elsewhere, or what it lost.",
        "forget": "Take rows out of the ledger; what runs, runs on.",
    },
    "This machine": {
        "serve": "Serve a model directory or a local model over HTTP, in the foreground.",
        "package": "Write a Dockerfile and Kubernetes manifests for a model directory.",
        "emulate": "Start AWS, Azure or Vertex AI on this machine, for any program.",
        "local setup": "Bring the embedded chat and embedding models.",
        "trust": "Let a project's cloudai.toml name addresses, files and a home.",
        "providers": "Show which provider can do what.",
        "version": "Print the version.",
    },
}
"""Every command with its summary, by section. ``"local setup"`` is the function ``local_setup``."""

HOMES: dict[str, str] = {
    "train": "train",
    "deploy": "endpoints",
    "predict": "endpoints",
    "batch": "batch",
    "chat": "chat",
    "embed": "embed",
    "ls": "resources",
    "destroy": "resources",
    "adopt": "resources",
    "forget": "resources",
    "status": "jobs",
    "logs": "jobs",
    "wait": "jobs",
    "cancel": "jobs",
    "serve": "serving",
    "package": "serving",
    "emulate": "emulate",
    "diff": "diff",
    "rehearse spot": "rehearse",
    "local setup": "about",
    "trust": "about",
    "providers": "about",
    "version": "about",
}
"""The module of ``cloudai.cli`` that each command is in."""
