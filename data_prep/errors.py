"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that says what is wrong, where, and how to mend it. Entry points print
    it without a traceback and leave with exit status 2.
    """
