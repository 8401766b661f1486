"""Messages of a user."""


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
