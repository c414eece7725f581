"""The one base of errors that a person can mend."""


class UserError(Exception):
    """What went wrong, for the person at the keyboard: shown without a traceback, names the file and says what to do."""
