"""Score with an entry script: `init()` once per worker process, `run(data)` for each request.

    app            the application and its routes; read this first
    pool           the queue in front of the worker processes, their time limits and replacement
    connection     one worker process, as the server sees it: start, calls in hand, end
    worker         the process that imports the script and calls it
    calls          requests to arguments of `run`, and results to answers
    batches        calls of a `run` that takes several requests at once
    messages       frames between server and worker
    options        a script and how it is run
    log_stream     output of the script, with the id of the request
    entry_script   import a script and find its functions
    protocols      tensors, .npy and CSV for a script that declares arrays or a table
    schema         decorators that declare what `run` takes and returns, and that it takes batches
    raw            requests and responses of scripts that handle HTTP themselves
    documents      Swagger 2.0 and OpenAPI 3.1 of a script

The contract is that of Azure ML's entry scripts, so that those run unchanged:
https://learn.microsoft.com/azure/machine-learning/v1/how-to-deploy-advanced-entry-script
"""
