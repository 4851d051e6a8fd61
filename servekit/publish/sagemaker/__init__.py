"""Amazon SageMaker's control plane, by boto3: images in ECR, archives in S3, model packages, endpoints."""
