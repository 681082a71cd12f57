"""The sagemaker SDK at the emulator, beside cloudai: what it makes itself, and what it finds.

Run by test_aws_sdk.py in a process of its own, with one JSON argument; its answer is the last line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sagemaker.core.helper.session_helper import Session
from sagemaker.core.resources import Endpoint, EndpointConfig, Model, TrainingJob, TransformJob
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant
from sagemaker.core.transformer import Transformer
from sagemaker.core.utils.logs import MultiLogStreamHandler
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode


def train(given: dict[str, Any], session: Session) -> dict[str, Any]:
    """One job with its own launching script, and the job that cloudai made."""
    trainer = ModelTrainer(
        training_image=given["training_image"],
        source_code=SourceCode(source_dir=given["source"], entry_script="train.py"),
        compute=Compute(instance_type="ml.m5.large", instance_count=1),
        hyperparameters={"scale": 3},
        base_job_name="theirs",
        role=given["role"],
        sagemaker_session=session,
    )
    data = InputData(channel_name="train", data_source=given["data"])
    trainer.train(input_data_config=[data], wait=False, logs=False)
    made = trainer._latest_training_job
    made.wait(poll=1, logs=True)
    ours = TrainingJob.get(given["job"])
    log = MultiLogStreamHandler("/aws/sagemaker/TrainingJobs", given["job"], 1)
    return {
        "made": made.training_job_name,
        "status": made.training_job_status,
        "found": ours.training_job_status,
        "log": [event["message"] for _, event in log.get_latest_log_events()],
        "model": ours.model_artifacts.s3_model_artifacts,
        "listed": sorted(one.training_job_name for one in TrainingJob.get_all()),
    }


def serve(given: dict[str, Any]) -> dict[str, Any]:
    """The endpoint that cloudai made, and one of the same model and image."""
    ours = Endpoint.get(given["endpoint"])
    (variant,) = ours.production_variants
    config = EndpointConfig.get(ours.endpoint_config_name)
    model = Model.get(config.production_variants[0].model_name)
    container = model.primary_container
    again = Model.create(
        model_name="theirs",
        execution_role_arn=given["role"],
        primary_container=ContainerDefinition(
            image=container.image,
            model_data_url=container.model_data_url,
            environment=container.environment,
        ),
    )
    EndpointConfig.create(
        endpoint_config_name="theirs",
        production_variants=[
            ProductionVariant(
                variant_name="all", model_name=again.model_name, initial_instance_count=1,
                instance_type="ml.m5.large", initial_variant_weight=1,
            )
        ],
    )  # fmt: skip
    made = Endpoint.create(endpoint_name="theirs", endpoint_config_name="theirs")
    made.wait_for_status("InService")
    about = {"content_type": "application/json", "accept": "application/json"}

    def ask(endpoint: Endpoint) -> Any:
        return json.loads(endpoint.invoke(body="[1, 2]", **about).body.read())

    return {
        "status": ours.endpoint_status,
        "variant": variant.variant_name,
        "answers": [ask(ours), ask(made)],
        "listed": sorted(one.endpoint_name for one in Endpoint.get_all()),
    }


def transform(given: dict[str, Any], session: Session) -> dict[str, Any]:
    """The transform job that cloudai made, and one with the SDK's own model of before."""
    ours = TransformJob.get(given["batch"])
    made = Transformer(
        model_name="theirs", instance_count=1, instance_type="ml.m5.large", strategy="MultiRecord",
        assemble_with="Line", accept="application/jsonlines", output_path=given["output"],
        base_transform_job_name="theirs", sagemaker_session=session,
    )  # fmt: skip
    made.transform(
        given["lines"], content_type="application/jsonlines", split_type="Line", wait=True,
        logs=True,
    )  # fmt: skip
    return {
        "status": ours.transform_job_status,
        "output": ours.transform_output.s3_output_path,
        "listed": sorted(one.transform_job_name for one in TransformJob.get_all()),
        "made": made.latest_transform_job.transform_job_name,
        "theirs": TransformJob.get(made.latest_transform_job.transform_job_name)
        .transform_job_status,
    }  # fmt: skip


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    session = Session(default_bucket=given["bucket"])
    found = {"training": train(given, session), "endpoint": serve(given)}
    found["batch"] = transform(given, session)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
