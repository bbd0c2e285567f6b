"""The errors that are the user's to mend."""

import errno
import os

#: Of a place where nothing more can be written: full, over the quota, files limited in size, not
#: writable.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

#: What the user can do then.
ANEW = "Make room and give the same command again."
AGAIN = f"{ANEW[:-1]}: what is done is kept."


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that says what is wrong, where, and how to mend it. Entry points print
    it without a traceback and leave with exit status 2.
    """


class OutputError(UserError):
    """What was made cannot be written: nothing that is done with other input will mend that."""


def no_room(error: BaseException | None) -> str:
    """Why there is no room to write, if that is what an error comes from, in the system's words.

    Libraries (TensorFlow, HDF5) raise errors of their own and quote the system's.
    """
    while error is not None:
        for code in _NO_ROOM:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                return os.strerror(code)
        error = error.__cause__ or error.__context__
    return ""
