"""What jobs, endpoints and uploads need of a profile: the role, the bucket, the network and the
key, each checked when it is asked for."""

from __future__ import annotations

import re
from typing import Any, Final

from cloudai._core.profiles.config import Profile
from cloudai.errors import ConfigError
from cloudai.types._base import invalid

_ROLE: Final = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}):role/[\w+=,.@/-]+\Z")
_ECR: Final = re.compile(r"\d{12}\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.")
_ARN: Final = re.compile(r"arn:aws[a-z-]*:[a-z0-9-]+:([a-z0-9-]*):")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")


class Settings:
    """Reads a profile for one region. Asks nobody.

    Attributes
    ----------
    profile: whose keys are read. region: where the profile works.
    """

    profile: Profile
    region: str

    def role(self) -> str:
        """The role that jobs work under."""
        role = self.profile.require("role", "SageMaker's and Bedrock's jobs work under one")
        check_role("role", role)
        return role

    def bucket(self) -> str:
        """The bucket of sources and results."""
        found = self.profile.get("bucket")
        if found is None:
            match = _ROLE.match(self.profile.get("role") or "")
            if match is None:
                self.profile.require("bucket", "there is no role to tell the account from")
            else:
                return f"sagemaker-{self.region}-{match[1]}"
        if not isinstance(found, str) or not _BUCKET.match(found):
            raise ConfigError(
                f"bucket={found!r} is not the name of a bucket",
                provider="aws",
                hint="3 to 63 of a-z 0-9 . -, without s3://",
            )
        return found

    def check_image(self, image: str, *, vpc: bool = False) -> None:
        """Refuses an image that SageMaker does not pull: it does from ECR alone, in its own
        region ("Use your own inference code", "TrainingImageConfig", API reference, read
        2026-11). Raises InvalidRequest.

        Parameters
        ----------
        vpc: ``native`` tells SageMaker to pull from a private registry inside the VPC.
        """
        match = _ECR.match(image)
        if match is None and not vpc:
            raise invalid(
                "image",
                image,
                "is not in Amazon ECR, and SageMaker pulls from nowhere else",
                f"Push it to ECR in {self.region}: "
                f"123456789012.dkr.ecr.{self.region}.amazonaws.com/NAME:TAG.",
            )
        if match is not None and match[1] != self.region:
            raise invalid(
                "image",
                image,
                f"lies in {match[1]}, and the profile works in {self.region}",
                "SageMaker pulls from its own region: push it there.",
            )

    def kms_key(self) -> str | None:
        """The key that encrypts volumes and results. Raises ConfigError for one elsewhere."""
        key = self.profile.get("kms_key")
        match = _ARN.match(key) if key is not None else None
        if match is not None and match[1] != self.region:
            raise ConfigError(
                f"kms_key={key!r} lies in {match[1]}, and the profile works in {self.region}",
                provider="aws",
                hint="Name a key of this region, or set region",
            )
        return key

    def check_arn(self, field: str, name: str) -> None:
        """Refuses the ARN of something in another region. Raises InvalidRequest."""
        match = _ARN.match(name)
        if match is not None and match[1] not in {"", self.region}:
            raise invalid(
                field,
                name,
                f"lies in {match[1]}, and the profile works in {self.region}",
                "Name one of this region, or set region.",
            )

    def listed(self, key: str) -> list[str]:
        """A key that holds several values, separated by commas."""
        value = self.profile.get(key)
        if value is None:
            return []
        parts = value.split(",") if isinstance(value, str) else list(value)
        return [str(part).strip() for part in parts if str(part).strip()]

    def vpc(self) -> dict[str, list[str]] | None:
        """The VpcConfig of jobs and endpoints; both keys or neither."""
        subnets, groups = self.listed("subnets"), self.listed("security_groups")
        if bool(subnets) != bool(groups):
            raise ConfigError(
                "subnets and security_groups go together", provider="aws", hint="Set both"
            )
        return {"SecurityGroupIds": groups, "Subnets": subnets} if subnets else None


def check_role(field: str, role: Any) -> None:
    """Refuses what is not the ARN of a role. Raises ConfigError."""
    if not isinstance(role, str) or not _ROLE.match(role):
        raise ConfigError(
            f"{field}={role!r} is not the ARN of an IAM role",
            provider="aws",
            hint="It looks like arn:aws:iam::123456789012:role/NAME",
        )
