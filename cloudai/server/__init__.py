"""The endpoint server: what ``client.endpoints.deploy`` starts locally, what a container of
SageMaker, Vertex AI, Azure ML or KServe runs, and what ``cloudai serve`` runs.

One front process speaks HTTP and holds the queues; it loads neither torch nor the user's code.
One worker process a core (or a GPU) holds the model: see ``pool`` and ``worker``. So the event
loop never waits for a forward, the workers share one queue whatever connections there are, all
metrics are in one place, and a worker that dies takes no connection with it.
"""
