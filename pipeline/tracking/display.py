"""Shows text that others may have written: short, and with nothing in it that could control a terminal."""


def shown(value: object) -> str:
    """Show a value from a store in at most 100 printable characters."""
    written = ascii(value)
    return written if len(written) <= 100 else f"{written[:97]}…"


def readable(content: bytes) -> str:
    """Show text on a terminal, with control and hidden characters made visible."""
    decoded = content.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in decoded)


def first_line(error: BaseException) -> str:
    """Show an error on one line."""
    return shown(" ".join(str(error).split()))[1:-1] or type(error).__name__
