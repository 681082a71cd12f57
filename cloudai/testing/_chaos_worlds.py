"""Where chaos operates: the emulated clouds, the fake and this machine, each with its world."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from cloudai.testing import clouds
from cloudai.testing._chaos_places import LATE, SHORT, Fault, Place, Work
from cloudai.testing.fake import FakeScript
from cloudai.types import TrainingJob

SPEED: Final = 1000.0
"""Of the emulators' clocks: jobs end in milliseconds, and none waits for a course to be run."""


class CloudPlace(Place):
    """An emulated cloud. ``all_requests`` matches what a fault at ``*`` may hit."""

    weight = 25
    all_requests: ClassVar[str] = ""

    def start(self) -> None:
        super().start()
        self.cloud = clouds.emulated(self.name, seed=self.seed, speed=SPEED)
        self.cloud.start()
        variables = clouds.environment([self.cloud])
        variables.pop("CLOUDAI_PROFILE")
        clouds.apply(variables, os.environ.__setitem__, lambda name: os.environ.pop(name, None))

    def stop(self) -> None:
        self.cloud.stop()

    def keys(self) -> dict[str, Any]:
        return self.cloud.keys

    def inject(self, fault: Fault) -> None:
        about: dict[str, Any] = {
            "throttle": {"kind": "throttle", "retry_after": 0.01},
            "slow": {"kind": "slow", "seconds": 0.05},
            "late": {"kind": "slow", "seconds": LATE + SHORT},
        }.get(fault.kind, {"kind": fault.kind})
        if fault.kind == "cut":
            self.cloud.faults.cut_stream(1, times=fault.times)
        elif fault.kind != "none":
            self.late = self.late or fault.kind == "late"
            target = fault.target
            match = self.all_requests if target == "*" else self.cloud.faults.match(target)
            self.cloud.faults.raw.add(match=match, times=fault.times, **about)

    def lift(self) -> None:
        self.cloud.faults.clear()


class AwsPlace(CloudPlace):
    name = "aws"
    models = {
        "chat": "anthropic.claude-sonnet-4-5-20250929-v1:0",
        "embeddings": "cohere.embed-v4:0",
    }
    kinds: ClassVar[dict[str, str]] = {
        "TrainingJob": "training",
        "Endpoint": "endpoint",
        "TransformJob": "batch",
    }

    def _resources(self) -> list[tuple[str, str]]:
        return [(kind, name) for _, kind, name in self.cloud.emulator.cloud_state.resources]

    def world(self) -> set[str]:
        # AWS keeps the records of ended transform jobs, whatever is deleted.
        ended = {
            row["TransformJobName"]
            for row in self._boto("sagemaker").list_transform_jobs(MaxResults=100)[
                "TransformJobSummaries"
            ]
            if row["TransformJobStatus"] in {"Completed", "Failed", "Stopped"}
        }
        return {
            f"{self.kinds[kind]}/{name}"
            for kind, name in self._resources()
            if kind in self.kinds and not (kind == "TransformJob" and name in ended)
        }

    def _boto(self, service: str) -> Any:
        import boto3

        keys = self.cloud.keys
        return boto3.client(service, endpoint_url=keys["endpoint_url"], region_name=keys["region"])

    def left(self) -> list[str]:
        made = [f"{kind} {name}" for kind, name in self._resources() if kind != "TransformJob"]
        s3 = self._boto("s3")
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.cloud.keys["bucket"])
        made += [one["Key"] for page in pages for one in page.get("Contents", ())]
        return sorted(made)


class AzurePlace(CloudPlace):
    name = "azure"
    models = {"chat": "gpt-5.1", "embeddings": "text-embedding-3-small"}
    # Not the identity endpoint: MSAL remembers its failures for a while of the wall clock.
    all_requests = r"^\w+ (?!/identity/)"

    def world(self) -> set[str]:
        found: set[str] = set()
        for key in self.cloud.emulator.cloud_state.ml:
            kind, _, name = key.partition("/")
            if kind == "jobs" and name.startswith("cb-"):
                found.add(f"batch/{name.removesuffix('-run')}")
            elif kind == "jobs" and "/" not in name:
                found.add(f"training/{name}")
            elif kind == "onlineEndpoints" and "/" not in name:
                found.add(f"endpoint/{name}")
            elif kind == "batchEndpoints" and "/" not in name:
                found.add(f"batch/{name}")
        return found

    def left(self) -> list[str]:
        # Sources, models and environments are named by their digest, and shared by all that
        # use them; what the platform logged of a job is its own.
        shared = ("codes/", "models/", "environments/")
        return sorted(
            key for key in self.cloud.emulator.cloud_state.ml if not key.startswith(shared)
        )


class VertexPlace(CloudPlace):
    name = "vertex"
    models = {"chat": "gemini-3.5-flash", "embeddings": "text-embedding-005"}

    def world(self) -> set[str]:
        cloud = self.cloud.emulator
        named = (
            ("training", cloud.jobs.all),
            ("endpoint", cloud.serving.endpoints),
            ("batch", cloud.batches.all),
        )
        return {f"{kind}/{name.rpartition('/')[2]}" for kind, names in named for name in names}

    def left(self) -> list[str]:
        cloud = self.cloud.emulator
        objects = cloud.storage.names(f"gs://{cloud.bucket}/")
        return sorted([*self.world(), *cloud.serving.models, *objects])


class FakePlace(Place):
    name = "fake"
    weight = 20
    models = {"chat": "smart", "embeddings": "embed"}

    def start(self) -> None:
        super().start()
        self.script = FakeScript(self.folder / "home")

    def keys(self) -> dict[str, Any]:
        return {"home": str(self.folder / "home")}

    def inject(self, fault: Fault) -> None:
        script, target, times = self.script, fault.target, fault.times
        if fault.kind == "throttle":
            script.throttle(target, times=times)
        elif fault.kind == "unavailable":
            script.fail(target, times=times, status=503)
        elif fault.kind == "reset":
            script.fail(target, "ConnectionFailed", times=times)
        elif fault.kind == "lose_reply":
            script.lose_reply(target)
        elif fault.kind == "slow":
            script.delay(target, 0.05, times=times)
        elif fault.kind == "late":
            script.delay(target, LATE + SHORT, times=times)
        elif fault.kind == "cut":
            script.cut_stream(1)

    def lift(self) -> None:
        with self.script._cloud_state.lock:
            self.script._cloud_state.faults.clear()

    def world(self) -> set[str]:
        store = self.script._cloud_state.store
        with store.open() as db:
            jobs = [
                f"{kind}/{job.id}" for kind in ("training", "batch") for job in store.jobs(db, kind)
            ]
            return {*jobs, *(f"endpoint/{one.name}" for one in store.endpoints(db))}


class LocalPlace(Place):
    """This machine: real processes. What goes wrong is in the jobs themselves."""

    name = "local"
    weight = 5
    operations = {
        "train": 8,
        "job_status": 4,
        "job_logs": 3,
        "job_cancel": 3,
        "job_finish": 6,
        "job_delete": 4,
        "jobs_list": 2,
        "resubmit": 3,
        "batch": 2,
        "batch_finish": 2,
        "batch_delete": 1,
    }

    def keys(self) -> dict[str, Any]:
        return {"home": str(self.folder / "home")}

    def fault(self, work: Work, rng: random.Random) -> Fault:
        return Fault()

    def job(self, rng: random.Random, number: int) -> TrainingJob:
        fails = rng.random() < 0.3
        told = {"scale": rng.randint(1, 9), **({"exit_code": 3} if fails else {})}
        return msgspec.structs.replace(super().job(rng, number), hyperparameters=told)

    def world(self) -> set[str]:
        jobs = self.folder / "home" / "jobs"
        names = [one.name for one in jobs.iterdir()] if jobs.is_dir() else []
        kinds = {"training": "training", "batch": "batch"}
        from cloudai.providers.local.jobs.store import Store

        store = Store(self.folder / "home")
        return {f"{kinds[store.row(name)['kind']]}/{name}" for name in names}


KINDS: Final[dict[str, type[Place]]] = {
    kind.name: kind for kind in (AwsPlace, AzurePlace, VertexPlace, FakePlace, LocalPlace)
}


def make(names: tuple[str, ...], folder: Path, seed: int, timeout: float) -> list[Place]:
    """The places of these names, not started."""
    return [KINDS[name](folder, seed, timeout) for name in names]
