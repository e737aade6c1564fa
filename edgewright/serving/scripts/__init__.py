"""Score with an entry script: `init()` once per worker process, `run(data)` for each request.

    app            the application and its routes; read this first
    pool           worker processes: start, queue, time limits, replacement
    worker         the process that imports the script and calls it
    messages       frames between the two
    entry_script   import a script and find its functions
    protocols      tensors, .npy and CSV for a script that declares arrays or a table
    schema         decorators that declare what `run` takes and returns
    raw            requests and responses of scripts that handle HTTP themselves
    documents      Swagger 2.0 and OpenAPI 3.1 of a script

The contract is that of Azure ML's entry scripts, so that those run unchanged:
https://learn.microsoft.com/azure/machine-learning/v1/how-to-deploy-advanced-entry-script
"""
