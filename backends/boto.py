"""What the clients of Amazon's services have in common: how their errors are told apart."""

from __future__ import annotations

from typing import Final

import botocore.exceptions as failures  # type: ignore[import-untyped]  # boto3 and botocore have no py.typed

CREDENTIALS: Final = "the environment, a profile (AWS_PROFILE) or a role must give valid ones, as boto3 finds them"
NO_CREDENTIALS: Final = (failures.NoCredentialsError, failures.PartialCredentialsError, failures.ProfileNotFound)


def code_of(error: BaseException | None) -> str:
    """The service's own code for what is wrong; empty for what is no answer of a service."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, failures.ClientError) else ""
