"""Copy measurements to Azure Data Explorer (Kusto)."""
