"""Plain boto3, as AWS documents it: Bedrock, then a SageMaker script from training to an endpoint
and a batch transform. Where it runs is said by the environment alone::

    cloudai emulate aws --execute -- python examples/plain_sdks/boto3_program.py

Nothing here knows of cloudai.
"""

from __future__ import annotations

import io
import json
import tarfile
import time

import boto3

CHAT = "anthropic.claude-sonnet-4-5-20250929-v1:0"
EMBED = "amazon.titan-embed-text-v2:0"
# SageMaker's own image for PyTorch; its toolkit runs the script.
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.6.0-cpu-py312"
SERVING = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312"
ROLE = "arn:aws:iam::123456789012:role/sagemaker"
BUCKET = "plain-boto3"

# It fits y = a·x + b by gradient descent.
TRAIN = """
import argparse, csv, json, os

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int)
parser.add_argument("--rate", type=float)
options = parser.parse_args()
with open(os.path.join(os.environ["SM_CHANNEL_TRAIN"], "points.csv")) as file:
    points = [(float(x), float(y)) for x, y in csv.reader(file)]
a = b = 0.0
for step in range(1, options.steps + 1):
    errors = [(a * x + b - y, x) for x, y in points]
    a -= options.rate * sum(error * x for error, x in errors) / len(points)
    b -= options.rate * sum(error for error, _ in errors) / len(points)
    if step % 100 == 0:
        print(f"step={step} loss={sum(error ** 2 for error, _ in errors) / len(points):.6f}")
with open("/opt/ml/model/line.json", "w") as file:
    json.dump({"a": a, "b": b, "host": os.environ["SM_CURRENT_HOST"]}, file)
os.makedirs(os.path.join(os.environ["SM_MODEL_DIR"], "code"))
with open(os.path.join(os.environ["SM_MODEL_DIR"], "code", "inference.py"), "w") as file:
    file.write(open("inference.py").read())
"""

INFERENCE = """
import json, os

def model_fn(model_dir):
    with open(os.path.join(model_dir, "line.json")) as file:
        return json.load(file)

def input_fn(body, content_type):
    return json.loads(body)

def predict_fn(xs, line):
    return [round(line["a"] * x + line["b"], 3) for x in xs]

def output_fn(ys, accept):
    return json.dumps(ys)
"""


def archive(**files: str) -> bytes:
    """A source archive, as SageMaker takes it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            about = tarfile.TarInfo(f"{name}.py")
            about.size = len(text.encode())
            tar.addfile(about, io.BytesIO(text.encode()))
    return packed.getvalue()


def until(look, field: str, *ends: str) -> dict:
    """Looks until the field says one of these."""
    while (found := look())[field] not in ends:
        time.sleep(0.2)
    if found[field] != ends[0]:
        raise SystemExit(f"{field} is {found[field]}: {found.get('FailureReason')}")
    return found


def ask() -> None:
    """Bedrock."""
    bedrock = boto3.client("bedrock-runtime")
    messages = [{"role": "user", "content": [{"text": "What is the capital of France?"}]}]
    reply = bedrock.converse(modelId=CHAT, messages=messages)
    print("chat:", reply["output"]["message"]["content"][0]["text"])
    stream = bedrock.converse_stream(modelId=CHAT, messages=messages)["stream"]
    pieces = [event["contentBlockDelta"] for event in stream if "contentBlockDelta" in event]
    print("stream:", "".join(piece["delta"].get("text", "") for piece in pieces))
    body = json.dumps({"inputText": "a cat", "dimensions": 512})
    answer = json.loads(bedrock.invoke_model(modelId=EMBED, body=body)["body"].read())
    print("embedding:", len(answer["embedding"]), "numbers")


def learn() -> None:
    """SageMaker, from a script to an endpoint and a batch."""
    s3 = boto3.client("s3")
    sagemaker = boto3.client("sagemaker")
    s3.create_bucket(Bucket=BUCKET)
    points = "".join(f"{x / 10},{2 * x / 10 + 1}\n" for x in range(20))
    s3.put_object(Bucket=BUCKET, Key="data/points.csv", Body=points.encode())
    s3.put_object(
        Bucket=BUCKET, Key="code/source.tar.gz", Body=archive(train=TRAIN, inference=INFERENCE)
    )
    sagemaker.create_training_job(
        TrainingJobName="line",
        RoleArn=ROLE,
        AlgorithmSpecification={"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        HyperParameters={
            "sagemaker_program": "train.py",
            "sagemaker_submit_directory": f"s3://{BUCKET}/code/source.tar.gz",
            "steps": "600",
            "rate": "0.3",
        },
        InputDataConfig=[
            {
                "ChannelName": "train",
                "DataSource": {
                    "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/data/"}
                },
            }
        ],
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/models"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
        StoppingCondition={"MaxRuntimeInSeconds": 3600},
    )
    job = until(
        lambda: sagemaker.describe_training_job(TrainingJobName="line"),
        "TrainingJobStatus", "Completed", "Failed", "Stopped",
    )  # fmt: skip
    events = boto3.client("logs").filter_log_events(logGroupName="/aws/sagemaker/TrainingJobs")
    print("log:", [one["message"] for one in events["events"] if "loss=" in one["message"]][-1])
    container = {
        "Image": SERVING,
        "ModelDataUrl": job["ModelArtifacts"]["S3ModelArtifacts"],
        "Environment": {"SAGEMAKER_PROGRAM": "inference.py"},
    }
    sagemaker.create_model(ModelName="line", ExecutionRoleArn=ROLE, PrimaryContainer=container)

    variant = {
        "VariantName": "all", "ModelName": "line", "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }  # fmt: skip
    sagemaker.create_endpoint_config(EndpointConfigName="line", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="line", EndpointConfigName="line")
    until(
        lambda: sagemaker.describe_endpoint(EndpointName="line"),
        "EndpointStatus", "InService", "Failed",
    )  # fmt: skip
    answer = boto3.client("sagemaker-runtime").invoke_endpoint(
        EndpointName="line", ContentType="application/json", Body=b"[0, 1, 10]"
    )
    print("endpoint:", answer["Body"].read().decode())

    s3.put_object(Bucket=BUCKET, Key="in/a.json", Body=b"[2, 3]")
    s3.put_object(Bucket=BUCKET, Key="in/b.json", Body=b"[4]")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/in/"}}
    sagemaker.create_transform_job(
        TransformJobName="line",
        ModelName="line",
        TransformInput={"DataSource": source, "ContentType": "application/json"},
        TransformOutput={"S3OutputPath": f"s3://{BUCKET}/out"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )
    until(
        lambda: sagemaker.describe_transform_job(TransformJobName="line"),
        "TransformJobStatus", "Completed", "Failed", "Stopped",
    )  # fmt: skip
    for name in ("a", "b"):
        made = s3.get_object(Bucket=BUCKET, Key=f"out/{name}.json.out")
        print(f"batch {name}:", made["Body"].read().decode())
    sagemaker.delete_endpoint(EndpointName="line")


if __name__ == "__main__":
    ask()
    learn()
