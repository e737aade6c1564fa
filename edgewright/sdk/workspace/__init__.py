"""The object layer of the SDK: workspaces, models, runs, environments and services, with the verbs of Azure ML's SDK v1.

    from edgewright.sdk import Model, Workspace

    ws = Workspace()                                     the configured cloud, or an embedded one in ./.edgewright
    model = Model.register(ws, model_path="churn.pkl", model_name="churn")
    service = Model.deploy(ws, "churn-service", [model])

`workspace.py` and `embedded.py` find or start the cloud; `model.py` and `model_files.py` register models and find their files;
`runs.py` records metrics; `edgewright.azureml` holds the old module paths.
"""
