"""Names of azureml.core.webservice."""

from edgewright.sdk import AciWebservice, LocalWebservice, Webservice

__all__ = ["AciWebservice", "LocalWebservice", "Webservice"]
