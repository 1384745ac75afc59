def format_source(source: str, path: str | None = None) -> str:
    return source
