"""How text that others may have written is shown: short, and without what could steer a terminal."""


def shown(value: object) -> str:
    """Write what came from a store in at most 100 printable characters."""
    written = ascii(value)
    return written if len(written) <= 100 else f"{written[:97]}…"


def readable(content: bytes) -> str:
    """Write text for a terminal, with what could steer one, or hide in it, made visible."""
    decoded = content.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in decoded)


def first_line(error: BaseException) -> str:
    """Write an error in one line."""
    return shown(" ".join(str(error).split()))[1:-1] or type(error).__name__
