"""The one exception of the package's own."""


class UnsupportedError(ValueError):
    """A request that cannot be met: no residuals, no matrices, too many parameters.

    The message says what is missing. A run that raises it ends with the status `unsupported`, which
    is a result.
    """


Unsupported = UnsupportedError  # the name of earlier versions, which users import
