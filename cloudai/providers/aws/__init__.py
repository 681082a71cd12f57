"""AWS: SageMaker for training, endpoints and batch; Bedrock for chat and embeddings."""

from typing import Final

from cloudai._core.profiles.registry import Key, ProviderSpec

SPEC: Final = ProviderSpec(
    name="aws",
    title="AWS: SageMaker and Bedrock",
    models="cloudai.providers.aws.models:TABLE",
    keys=(
        Key(
            name="region",
            doc="the region, such as eu-west-1 (default: the AWS configuration's own)",
            identity=True,
        ),
        Key(name="profile", doc="a profile of ~/.aws/config, SSO ones too", identity=True),
        Key(
            name="role",
            doc="the ARN of the IAM role that SageMaker's and Bedrock's jobs work under",
            identity=True,
        ),
        Key(
            name="assume_role",
            doc="the ARN of an IAM role to assume for every call; renewed before it expires",
            identity=True,
        ),
        Key(
            name="bucket",
            doc="the S3 bucket of sources and results (default: SageMaker's own, "
            "sagemaker-REGION-ACCOUNT, with the account of role)",
            identity=True,
        ),
        Key(
            name="endpoint_url",
            doc="another address for every AWS service",
            identity=True,
            trust="address",
        ),
        Key(name="kms_key", doc="the KMS key that encrypts volumes and results", identity=True),
        Key(name="subnets", doc="subnets of jobs and endpoints, separated by commas"),
        Key(
            name="security_groups",
            doc="security groups of jobs and endpoints, separated by commas",
        ),
    ),
    capabilities={
        "training": "cloudai.providers.aws.training.adapter:AwsTraining",
        "endpoints": "cloudai.providers.aws.endpoints.adapter:AwsEndpoints",
        "batch": "cloudai.providers.aws.batch.adapter:AwsBatch",
        "chat": "cloudai.providers.aws.chat.adapter:AwsChat",
        "embeddings": "cloudai.providers.aws.embeddings.adapter:AwsEmbeddings",
    },
    extras={"chat": "bedrock", "embeddings": "bedrock", "secrets": "bedrock"},
    secrets={
        "secretsmanager": "cloudai.providers.aws.secrets:AwsSecrets",
        "ssm": "cloudai.providers.aws.secrets:AwsSecrets",
    },
    stand_ins=(
        {
            "region": "us-east-1",
            "role": "arn:aws:iam::123456789012:role/stand-in",
            "bucket": "stand-in",
        },
    ),
    # The services' own hosts ("Service endpoints and quotas", AWS General Reference, read
    # 2026-11), none of which a customer can have a server at, as he can at ELB, EC2 or S3.
    domains=(
        (
            r"([a-z0-9-]+\.)*(sagemaker|bedrock)[a-z0-9-]*(\.[a-z0-9-]+)?"
            r"\.(amazonaws\.com(\.cn)?|api\.aws|c2s\.ic\.gov|sc2s\.sgov\.gov)"
        ),
    ),
    store="s3://{path}",
    gaps={
        "embeddings:rerank": "no ranking of documents; a cross-encoder on this machine does it",
        "training:finetune": "fine-tuning as a service; run a script job instead",
        "endpoints:secrets": "SageMaker hands containers none: load() fetches them under the role",
        "endpoints:serverless": "no steps in rollouts, no network of your own, no streams; "
        "mode='realtime' has them",
        "endpoints:tensorflow": "TF Serving takes no handler; use pytorch or an image of your own",
        "batch:secrets": "transform jobs take none either: load() fetches them under the role",
        "batch:resume": "a transform job begins anew; batches on the client's side go on",
        "chat:families": "some models take no temperature, no forced or streamed tools; each call "
        "is refused beforehand, with what to do instead",
        "chat:seed": "Bedrock's Converse has no seed; some models take one in native",
    },
)
