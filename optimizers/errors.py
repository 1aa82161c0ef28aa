"""The one exception of the package's own."""


class UnsupportedError(ValueError):
    """What was asked for does not exist here.

    A loss without residuals, a model without matrices, too many parameters.

    The message says what is missing. A run that raises it ends with the status `unsupported`, which
    is a result.
    """


Unsupported = UnsupportedError  # the name of earlier versions, which users import
