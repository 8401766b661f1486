"""Download sources for catalog models. A source is one function: `download(model, work, show) -> path of the file`."""


class SourceError(Exception):
    """This source cannot provide the model. The message is a phrase that gives the reason."""
