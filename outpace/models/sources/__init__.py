"""Where the files of the catalog are downloaded from. A source is one function: `download(model, work folder, show) -> file`."""


class SourceError(Exception):
    """This source cannot give the model; the message says why, as part of a line."""
