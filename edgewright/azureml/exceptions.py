"""Names of azureml.exceptions: the classes of `edgewright.errors` that take their place."""

from edgewright.errors import EdgewrightError as AzureMLException
from edgewright.errors import NotFoundError as ModelNotFoundException
from edgewright.errors import OperationError as WebserviceException

__all__ = ["AzureMLException", "ModelNotFoundException", "WebserviceException"]
